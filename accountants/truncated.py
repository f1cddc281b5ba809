"""The privacy loss of one step of Poisson sampling with a largest number of buckets.

Of more than B drawn buckets, a uniformly random subset of B is used. Whether the OTHER buckets alone fill the step does
not depend on the bucket that is protected. With the probability t of B others or more, it takes the place of one of
them, with probability c; otherwise the step is Poisson sampling. So with a bucket removed, added or replaced, the
divergence is at most

    (1-t) [that of Poisson sampling at rate q]  +  t [that of a bucket that takes the place of another, at rate c],

where the two sums that may differ are 2 apart in the second part, as :mod:`accountants.fixed_number` has it. The split
is that of arXiv 2508.15089, which dp-accounting computes with a looser second part.
docs/decisions/other_samplers.md proves it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from accountants.fixed_number import Subset
from accountants.guarantee import Adjacency
from accountants.mechanism import TruncatedPoisson
from accountants.mixtures import Pair

Numbers = npt.NDArray[np.float64]

_HARDLY = 1e-250
"""A probability of truncation below which quotients of such probabilities are no longer exact in float64."""


@dataclass(frozen=True)
class Mixed:
    """A dominating pair whose divergences are mixtures of those of others.

    Attributes:
        alternatives: of several mixtures the largest divergence counts; each holds weights, which sum to 1, and pairs.
    """

    alternatives: tuple[tuple[tuple[float, Pair | Subset], ...], ...]

    @property
    def losses(self) -> tuple[float, float]:
        """The smallest and the largest privacy loss that count."""
        ends = [pair.losses for parts in self.alternatives for _, pair in parts]
        return min(low for low, _ in ends), max(high for _, high in ends)

    @property
    def shape(self) -> tuple[float, float]:
        """Standard deviation and width of the privacy loss, approximately."""
        variance = max(
            sum(weight * pair.shape[0] ** 2 for weight, pair in parts) for parts in self.alternatives
        )
        low, high = self.losses
        return float(np.sqrt(variance)), high - low

    def delta(self, epsilons: Numbers) -> Numbers:
        """Return the hockey-stick divergence at each epsilon, ascending, (n,)."""
        found: Numbers = np.max([_mean(parts, epsilons) for parts in self.alternatives], axis=0)
        return found


def _mean(parts: tuple[tuple[float, Pair | Subset], ...], epsilons: Numbers) -> Numbers:
    found = np.zeros_like(epsilons)
    for weight, pair in parts:
        found += weight * pair.delta(epsilons)
    return found


def pairs(mechanism: TruncatedPoisson, *, sigma: float, adjacency: Adjacency) -> tuple[Mixed, ...]:
    """Return the pairs whose larger delta is that of the adjacency.

    Args:
        mechanism: the step.
        sigma: its noise multiplier, within the computable range.
        adjacency: as in `accountants.epsilon`.
    """
    if adjacency == "replace":
        return (Mixed((_mixture(mechanism, mechanism.units, sigma, "replace"),)),)
    # K is the number of buckets of one neighbour; the other has one less, or one more.
    sizes = (mechanism.units, mechanism.units + 1)
    return tuple(
        Mixed(tuple(_mixture(mechanism, size, sigma, direction) for size in sizes))
        for direction in ("remove", "add")
    )


def _mixture(
    mechanism: TruncatedPoisson, units: int, sigma: float, direction: str
) -> tuple[tuple[float, Pair | Subset], ...]:
    """Return the weights and pairs of a step if the larger data set has so many buckets."""
    full, taken = truncation(units, mechanism.sampling_rate, mechanism.most)
    drawn: tuple[float, Pair | Subset] = (
        1 - full,
        Pair.of(sampling_rate=mechanism.sampling_rate, sigma=sigma, owned=1, direction=direction),
    )
    if full == 0:
        return (drawn,)
    exchanged: Pair | Subset = (
        Subset(taken, sigma)
        if direction == "replace"
        # The same two distributions as at half the noise with means that are 1 apart.
        else Pair.of(sampling_rate=taken, sigma=sigma / 2, owned=1, direction=direction)
    )
    return drawn, (full, exchanged)


def truncation(units: int, sampling_rate: float, most: int) -> tuple[float, float]:
    """Return the probability that the other buckets fill a step, and that of a bucket to take part in such a step.

    Args:
        units: K >= 1, with the bucket itself.
        sampling_rate: q in (0, 1].
        most: B >= 1.
    """
    full = float(binom.sf(most - 1, units - 1, sampling_rate))
    # A bucket that is drawn with at least B others is used with probability B / (B + 1) or less.
    largest = sampling_rate * most / (most + 1)
    if full < _HARDLY:
        return full, largest
    # Of the more than B buckets of a truncated step, every one of the K is used equally often.
    truncated = float(binom.sf(most, units, sampling_rate))
    return full, min(largest, truncated * most / units / full)
