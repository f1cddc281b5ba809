"""Times two repeated steps in turns, so that both meet the same noise of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator


def in_turns(one: Iterator[None], other: Iterator[None], pairs: int) -> list[tuple[float, float]]:
    """Return the seconds of a step of each, after a first step that does not count.

    Each goes first in every other pair.
    """
    next(one), next(other)
    found = []
    for i in range(pairs):
        order = (one, other) if i % 2 else (other, one)
        seconds = {step: _seconds(step) for step in order}
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


def _seconds(step: Iterator[None]) -> float:
    start = time.perf_counter()
    next(step)
    return time.perf_counter() - start
