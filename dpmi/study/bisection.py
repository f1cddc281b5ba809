"""Find the strength at which a defence reaches a given accuracy, by bisection over noisy trials.

The search is a generator: it yields the measurements that it needs, and the caller sends their results.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeAlias

Ask: TypeAlias = Mapping[float, int]
"""Strength -> number of seeds to measure, counted from the first seed."""
Answer: TypeAlias = Mapping[float, Sequence[float]]
"""Strength -> accuracies, one per requested seed."""

FAR = 0.05
"""A single seed decides the side of the target if it lies at least this far outside the tolerance."""
DIGITS = 4
"""Significant digits of a tried strength, so that a user can read and type it."""


@dataclass(frozen=True)
class AccuracyTarget:
    """The accuracy to reach.

    Args:
        accuracy: in (0, 1).
        tolerance: in (0, 0.5); a mean accuracy within it ends the search.
        trials: maximum number of strengths to try, at least 3: two are the ends of the range.

    >>> target = AccuracyTarget(0.9, tolerance=0.01)
    >>> target.trials
    8
    >>> try:
    ...     AccuracyTarget(90)
    ... except ValueError as error:
    ...     print(error)
    accuracy must be in (0, 1), a share, not a percentage; got 90
    """

    accuracy: float
    tolerance: float = 0.005
    trials: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.accuracy < 1:
            raise ValueError(f"accuracy must be in (0, 1), a share, not a percentage; got {self.accuracy}")
        if not 0 < self.tolerance < 0.5:
            raise ValueError(
                f"tolerance must be in (0, 0.5), a difference of accuracies; got {self.tolerance}"
            )
        if self.trials < 3:
            raise ValueError(f"trials must be at least 3, two for the ends of the range; got {self.trials}")


@dataclass(frozen=True)
class MatchedStrength:
    """The result of a search.

    Args:
        strength: the tried strength that is nearest to the target; NaN for a defence without a strength.
        accuracies: one per seed.
        trials: how many strengths were tried.
        note: why the target was missed; empty if it was met.

    >>> found = MatchedStrength(strength=0.25, accuracies=(0.9, 0.92), trials=4)
    >>> round(found.accuracy, 2), found.note
    (0.91, '')
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
    """The accuracies measured so far, by strength."""

    target: AccuracyTarget
    seeds: int
    known: dict[float, Sequence[float]] = field(default_factory=dict)

    def ask(self, *strengths: float, seeds: int) -> Generator[Ask, Answer, None]:
        answer = yield dict.fromkeys(strengths, seeds)
        self.known.update({strength: tuple(answer[strength]) for strength in strengths})

    def confirm(self, strength: float) -> Generator[Ask, Answer, None]:
        """Measure the strength with all seeds."""
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

    The search first tries both ends. While the target lies between them, it halves the range at :func:`halfway`.

    A trial starts with one seed. If this seed is ``FAR`` outside the tolerance, it decides the side alone; otherwise
    the mean over all seeds decides. The returned strength, and the statement that the target is out of range, always
    use all seeds. A misleading first seed can therefore waste trials, but cannot make the result wrong.

    Accuracy may not be monotone in the strength, and it is measured with error. The search may therefore miss the
    target; it then returns the nearest strength that it tried.

    Args:
        weakest: the end of the range that protects least.
        strongest: the end of the range that protects most.
        target: the accuracy to reach.
        seeds: number of seeds, at least 1.

    Yields:
        The measurements to make; the caller returns them with ``send``.
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
    note = f"target not met in {target.trials} trials; using the nearest strength"
    while len(measured.known) < target.trials:
        middle = halfway(above, below)
        if middle in (above, below):
            note = f"no strength lies between {above:g} and {below:g}; using the nearer one"
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
    """Measure a defence at a fixed strength; NaN if it has none."""
    answer = yield {strength: seeds}
    (accuracies,) = answer.values()
    return MatchedStrength(strength, tuple(accuracies), 1)


def halfway(one: float, other: float) -> float:
    """The midpoint: the geometric mean if both have the same sign, else the arithmetic mean; two ints give an int.

    >>> halfway(0.05, 20.0), halfway(-0.3, -0.01), halfway(0.0, 0.5), halfway(1, 64), halfway(3, 4)
    (1.0, -0.05477, 0.25, 8, 3)
    """
    middle = math.copysign(math.sqrt(one * other), one) if one * other > 0 else (one + other) / 2
    if isinstance(one, int) and isinstance(other, int):
        return round(middle)
    return float(f"{middle:.{DIGITS}g}")
