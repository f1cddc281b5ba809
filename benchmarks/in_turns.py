"""Times two repeated steps in turns, so that both meet the same noise of the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator


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


def _seconds(step: Iterator[None]) -> float:
    start = time.perf_counter()
    next(step)
    return time.perf_counter() - start
