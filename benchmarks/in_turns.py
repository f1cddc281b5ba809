"""Times repeated steps in turns, so that all meet the same noise of the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch

Key = TypeVar("Key")


def in_turns(one: Iterator[None], other: Iterator[None], pairs: int) -> list[tuple[float, float]]:
    """Return the seconds of a step of each, after a first step that does not count.

    Each goes first in every other pair.
    """
    next(one), next(other)
    found = []
    for i in range(pairs):
        order = (one, other) if i % 2 else (other, one)
        seconds = {step: _seconds(step.__next__, "cpu") for step in order}
        found.append((seconds[one], seconds[other]))
    return found


def between(
    one: Callable[[], float], other: Callable[[], float], seconds: float
) -> list[tuple[float, float, float]]:
    """Return the seconds of a step of one, of the other and of the first again, in rounds until ``seconds`` are over.

    There is at least one round. The two steps of the first, divided, are the machine's noise.
    """
    found: list[tuple[float, float, float]] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        found.append((one(), other(), one()))
    return found


def all_in_turns(
    runs: Mapping[Key, Callable[[], object]],
    repeats: int,
    device: str = "cpu",
    *,
    warm: bool = True,
    until: float = math.inf,
) -> dict[Key, list[float]]:
    """Return the seconds of every run in every turn, in reversed order in every other turn.

    Args:
        runs: the functions.
        repeats: most turns.
        device: what has to be idle before and after each run.
        warm: whether a first turn does not count.
        until: no turn after the first that counts starts later, by ``time.perf_counter()``.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in runs}
    order = list(runs)
    for turn in range(repeats + warm):
        if turn > warm and time.perf_counter() > until:
            break
        for key in order:
            took = _seconds(runs[key], device)
            if turn or not warm:
                seconds[key].append(took)
        order.reverse()
    return seconds


def _seconds(run: Callable[[], object], device: str) -> float:
    _wait_for(device)
    start = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
