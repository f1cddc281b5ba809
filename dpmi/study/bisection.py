"""The strength at which a defence reaches a given accuracy, by bisection over noisy trials.

Pure search: what is to be measured is asked for, and somebody else measures it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeAlias

Ask: TypeAlias = Mapping[float, int]
"""Strength -> of how many seeds, from the first on, the accuracy is needed."""
Answer: TypeAlias = Mapping[float, Sequence[float]]
"""Strength -> accuracies of these seeds."""

FAR = 0.05
"""A single seed that is this far outside the tolerance decides on which side of the target a strength is."""
DIGITS = 4
"""Significant digits of a strength that is tried, so that it can be read and typed."""


@dataclass(frozen=True)
class AccuracyTarget:
    """The accuracy that is looked for.

    Args:
        accuracy: in (0, 1).
        tolerance: in (0, 0.5); a mean accuracy within it ends the search.
        trials: the most strengths to try, at least 3: two are the ends of the range.
    """

    accuracy: float
    tolerance: float = 0.005
    trials: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.accuracy < 1:
            raise ValueError(f"accuracy must be in (0, 1), a share and no percentage; got {self.accuracy}")
        if not 0 < self.tolerance < 0.5:
            raise ValueError(
                f"tolerance must be in (0, 0.5), a difference of accuracies; got {self.tolerance}"
            )
        if self.trials < 3:
            raise ValueError(f"trials must be at least 3, two for the ends of the range; got {self.trials}")


@dataclass(frozen=True)
class MatchedStrength:
    """Where a search ended.

    Args:
        strength: of all that were tried, the nearest to the target; NaN for a defence without strength.
        accuracies: one per seed.
        trials: how many strengths were tried.
        note: why the target was missed; empty if it was met.
    """

    strength: float
    accuracies: tuple[float, ...]
    trials: int
    note: str = ""

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return fmean(self.accuracies)


@dataclass
class _Measured:
    """What is known of the accuracy at every strength that was tried."""

    target: AccuracyTarget
    seeds: int
    known: dict[float, Sequence[float]] = field(default_factory=dict)

    def ask(self, *strengths: float, seeds: int) -> Generator[Ask, Answer, None]:
        answer = yield dict.fromkeys(strengths, seeds)
        self.known.update({strength: tuple(answer[strength]) for strength in strengths})

    def confirm(self, strength: float) -> Generator[Ask, Answer, None]:
        """By all seeds."""
        if len(self.known[strength]) < self.seeds:
            yield from self.ask(strength, seeds=self.seeds)

    def excess(self, strength: float) -> float:
        """Accuracy above the target."""
        return fmean(self.known[strength]) - self.target.accuracy

    def found(self, strength: float, note: str) -> MatchedStrength:
        met = abs(self.excess(strength)) <= self.target.tolerance
        return MatchedStrength(strength, tuple(self.known[strength]), len(self.known), "" if met else note)


def search(
    weakest: float, strongest: float, *, target: AccuracyTarget, seeds: int
) -> Generator[Ask, Answer, MatchedStrength]:
    """Find the strength whose mean accuracy over the seeds is within the tolerance of the target.

    Both ends are tried first. While the target lies between them, the range is halved: by its geometric mean where
    its ends have the same sign, whole numbers among whole numbers where both ends are ``int``.

    A trial begins with one seed. If that is ``FAR`` outside the tolerance, on a side on which the search goes on, it
    decides alone; else the mean over all seeds decides. What is returned, and that a target is out of range,
    always rests on all seeds. A wrong turn by one seed can therefore cost trials, but not the truth of the result.

    Accuracy need not be monotone in the strength, and is not measured exactly: the search may end without having met
    the target, and then returns the nearest strength that it tried.

    Args:
        weakest: the end that protects least.
        strongest: the end that protects most.
        target: what to look for.
        seeds: how many there are, at least 1.

    Yields:
        What has to be measured; to be answered by ``send``.
    """
    measured = _Measured(target, seeds)
    excess = measured.excess
    far = target.tolerance + FAR
    yield from measured.ask(weakest, strongest, seeds=1)
    if excess(weakest) < far:
        yield from measured.confirm(weakest)
    if excess(strongest) > -far:
        yield from measured.confirm(strongest)
    if excess(weakest) <= 0:
        return measured.found(weakest, "the weakest strength of the range is already below the target")
    if excess(strongest) >= 0:
        return measured.found(strongest, "the strongest strength of the range is still above the target")
    above, below = weakest, strongest
    note = f"not met in {target.trials} trials; the nearest is taken"
    while len(measured.known) < target.trials:
        middle = halfway(above, below)
        if middle in (above, below):
            note = f"no strength lies between {above:g} and {below:g}; the nearer is taken"
            break
        yield from measured.ask(middle, seeds=1)
        if abs(excess(middle)) < far:
            yield from measured.confirm(middle)
            if abs(excess(middle)) <= target.tolerance:
                break
        above, below = (middle, below) if excess(middle) > 0 else (above, middle)
    while True:
        nearest = min(measured.known, key=lambda strength: abs(excess(strength)))
        if len(measured.known[nearest]) == seeds:
            return measured.found(nearest, note)
        yield from measured.confirm(nearest)


def as_it_is(strength: float, *, seeds: int) -> Generator[Ask, Answer, MatchedStrength]:
    """Measure a defence whose strength is not searched; NaN if it has none."""
    answer = yield {strength: seeds}
    (accuracies,) = answer.values()
    return MatchedStrength(strength, tuple(accuracies), 1)


def halfway(one: float, other: float) -> float:
    """Between both: their geometric mean if they have the same sign, else the arithmetic one.

    >>> halfway(0.05, 20.0), halfway(-0.3, -0.01), halfway(0.0, 0.5), halfway(1, 64), halfway(3, 4)
    (1.0, -0.05477, 0.25, 8, 3)
    """
    middle = math.copysign(math.sqrt(one * other), one) if one * other > 0 else (one + other) / 2
    if isinstance(one, int) and isinstance(other, int):
        return round(middle)
    return float(f"{middle:.{DIGITS}g}")
