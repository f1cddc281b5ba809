"""The privacy loss of one pass in which every bucket takes part in one of T steps, chosen at random (balls in bins).

With a bucket removed or added, the pair that dominates a pass is, in T dimensions and units of max_grad_norm,

    (1/T) sum_t N(e_t, s^2 I)   against   N(0, s^2 I),

in both orders [CGH25]. Under N(0, s^2 I) the quotient X of the densities is the mean of T independent log-normal
variables, and every divergence is the expectation of a convex function of X. So X may be replaced by any variable that
is larger in the convex order; docs/decisions/other_samplers.md has the proof.

This module computes the distribution of such a variable on a grid that is even in the logarithm: it moves every
probability to the two neighbouring points such that the mean is kept, which is larger in the convex order, adds two
independent sums, and repeats it. There is no sampling: the result is an upper bound without a confidence. [FS26]
computes the same distribution with other roundings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Numbers = npt.NDArray[np.float64]

_TAIL = 10.0
"""Standard deviations of the noise of one step on either side; the mass outside is below e^-50."""

_NEGLECTED = 1e-22
"""More than the probability, per step of a pass, of everything that is left out; it counts as an infinite loss."""

_TRIMMED = 1e-25
"""Mass at either end of a sum's distribution that is left out."""

_PER_SPREAD, _FEWEST, _MOST = 12, 2048, 16384
"""Points of the grid: so many per standard deviation of log X, but at least and at most so many for one step. The
roundings raise the variance of X by about a third of the squared distance of two points."""


@dataclass(frozen=True, eq=False)
class Sum:
    """The distribution, without a bucket, of a sum of independent quotients of densities, on a grid of logarithms.

    Attributes:
        first: the logarithm of the first value, in grid distances.
        masses: probabilities, (n,).
    """

    first: int
    masses: Numbers

    def logarithms(self, distance: float) -> Numbers:
        """Return the logarithms of the values, (n,)."""
        found: Numbers = (self.first + np.arange(len(self.masses))) * np.float64(distance)
        return found


@dataclass(frozen=True, eq=False)
class Allocated:
    """The dominating pair of one pass, in one direction.

    Attributes:
        logs: the logarithms of X, ascending, (n,).
        without: the probabilities without the bucket, (n,).
        direction: "remove" or "add".
        neglected: what was left out; it counts as an infinite loss.
    """

    logs: Numbers
    without: Numbers
    direction: str
    neglected: float

    @property
    def losses(self) -> tuple[float, float]:
        """The smallest and the largest privacy loss that count."""
        low, high = float(self.logs[0]), float(self.logs[-1])
        return (low, high) if self.direction == "remove" else (-high, -low)

    @property
    def shape(self) -> tuple[float, float]:
        """Standard deviation and width of the privacy loss."""
        weight = self._present if self.direction == "remove" else self.without
        mean = weight @ self.logs / weight.sum()
        variance = weight @ (self.logs - mean) ** 2 / weight.sum()
        return math.sqrt(float(variance)), float(np.ptp(self.logs))

    def delta(self, epsilons: Numbers) -> Numbers:
        """Return the hockey-stick divergence at each epsilon, ascending, (n,)."""
        if self.direction == "remove":  # the expectation of the positive part of X - e^epsilon
            place = np.searchsorted(self.logs, epsilons, side="right")
            found = self._from(self._present)[place] - np.exp(epsilons) * self._from(self.without)[place]
        else:  # that of 1 - e^epsilon X
            place = np.searchsorted(self.logs, -epsilons, side="left")
            found = self._to(self.without)[place] - np.exp(epsilons) * self._to(self._present)[place]
        falling: Numbers = np.maximum.accumulate(np.clip(found + self.neglected, 0.0, 1.0)[::-1])[::-1]
        return falling

    @property
    def _present(self) -> Numbers:
        """The probabilities with the bucket, (n,)."""
        found: Numbers = self.without * np.exp(self.logs)
        return found

    @staticmethod
    def _from(masses: Numbers) -> Numbers:
        """Return the mass from every point on, and 0 at the end, (n + 1,)."""
        return np.append(np.cumsum(masses[::-1])[::-1], 0.0)

    @staticmethod
    def _to(masses: Numbers) -> Numbers:
        """Return the mass before every point, and all of it at the end, (n + 1,)."""
        return np.append(0.0, np.cumsum(masses))


@lru_cache(maxsize=16)  # a run needs the same pass at every interval
def pairs(*, steps: int, sigma: float) -> tuple[Allocated, ...]:
    """Return the pairs whose larger delta is that of adding or removing a bucket.

    Args:
        steps: T >= 1.
        sigma: the noise multiplier, at least 0.05, because quotients of densities overflow below.
    """
    distance = _distance(steps, sigma)
    total = sum_of(steps, sigma, distance)
    logs = total.logarithms(distance) - math.log(steps)
    return tuple(
        Allocated(logs=logs, without=total.masses, direction=direction, neglected=_NEGLECTED * steps)
        for direction in ("remove", "add")
    )


def sum_of(steps: int, sigma: float, distance: float) -> Sum:
    """Return a variable that is larger, in the convex order, than the sum of the quotients of T steps.

    Args:
        steps: T >= 1.
        sigma: the noise multiplier.
        distance: of two neighbouring logarithms of the grid.
    """
    power, found = _one(sigma, distance), None
    while True:
        if steps % 2:
            found = power if found is None else _added(found, power, distance)
        steps //= 2
        if not steps:
            assert found is not None
            return found
        power = _added(power, power, distance)


def _distance(steps: int, sigma: float) -> float:
    width = 2 * _TAIL / sigma + 1 / sigma**2
    # The variance of X is (e^(1/s^2) - 1) / T; for little noise, that of a single logarithm is what counts.
    spread = math.sqrt(math.expm1(min(1 / sigma**2, 1.0)) / steps)
    return min(width / _FEWEST, max(spread / _PER_SPREAD, width / _MOST))


def _one(sigma: float, distance: float) -> Sum:
    """Return the quotient of one step, e^(z / s - 1 / (2 s^2)) with a normal z."""
    half = 1 / (2 * sigma * sigma)
    first = math.floor((-_TAIL / sigma - half) / distance)
    # With the bucket, z is 1 / s larger.
    last = math.ceil((_TAIL / sigma + half) / distance)
    logs: Numbers = np.arange(first, last + 1) * np.float64(distance)
    z: Numbers = (logs + half) * sigma
    without, present = _cells(z), _cells(z - 1 / sigma)
    values = np.exp(logs)
    # The share of a cell's mass at its right end, which keeps the mean.
    right = np.clip((present - without * values[:-1]) / np.diff(values), 0.0, without)
    masses = np.append(without - right, 0.0)
    masses[1:] += right
    return Sum(first, masses)


def _cells(z: Numbers) -> Numbers:
    """Return the masses of a normal variable between neighbouring z, with small ones exact."""
    left, right = z[:-1], z[1:]
    found: Numbers = np.where(left > 0, ndtr(-left) - ndtr(-right), ndtr(right) - ndtr(left))
    return found


def _added(one: Sum, other: Sum, distance: float) -> Sum:
    """Return the sum of two independent variables, each moved to the grid such that the mean is kept."""
    n = (
        max(len(one.masses) + one.first, len(other.masses) + other.first)
        + math.ceil(math.log(2) / distance)
        + 1
    )
    first = max(one.first, other.first)
    found = np.zeros(n - first + 1)
    _add(found, first, one, other, distance, from_equal=True)
    _add(found, first, other, one, distance, from_equal=False)
    return _trimmed(Sum(first, found), distance)


def _add(found: Numbers, first: int, large: Sum, small: Sum, distance: float, *, from_equal: bool) -> None:
    """Add the pairs of values of which the first is larger; the logarithm of a sum depends on their distance only."""
    most = large.first + len(large.masses) - 1 - small.first
    d = np.arange(0 if from_equal else 1, most + 1)
    if not len(d):
        return
    ratio = 1 + np.exp(-d * distance)  # of the sum to the larger value
    shift = np.floor(np.log(ratio) / distance).astype(np.int64)
    share = np.clip((ratio * np.exp(-shift * distance) - 1) / math.expm1(distance), 0.0, 1.0)
    places = np.arange(len(large.masses))
    for each in np.unique(shift):
        (those,) = np.nonzero(shift == each)
        start = int(d[those[0]])
        for weights, to in ((1 - share[those], each), (share[those], each + 1)):
            # For every larger value, the mass of the smaller ones at these distances.
            near = np.convolve(small.masses, weights)
            at = large.first + places - start - small.first
            (inside,) = np.nonzero((at >= 0) & (at < len(near)))
            found[large.first - first + int(to) + inside] += near[at[inside]] * large.masses[inside]


def _trimmed(whole: Sum, distance: float) -> Sum:
    """Leave out the ends, of which hardly any mass is with or without the bucket."""
    logs = whole.logarithms(distance)
    present = whole.masses * np.exp(logs - logs[-1])
    present /= present.sum()
    low = int(np.searchsorted(np.cumsum(whole.masses), _TRIMMED))
    above = np.cumsum((present + whole.masses)[::-1])
    high = len(logs) - int(np.searchsorted(above, _TRIMMED))
    return Sum(whole.first + low, whole.masses[low:high])
