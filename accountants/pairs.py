"""The pairs of distributions that dominate one charge of a ledger, for every mechanism but plain Poisson sampling.

A pair is known by its privacy profile: the hockey-stick divergence at every epsilon. :mod:`accountants.pld` makes a
privacy loss distribution of it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from accountants.guarantee import Adjacency
from accountants.mechanism import (
    BallsInBins,
    BucketMechanism,
    FixedNumber,
    Mechanism,
    SeveralBuckets,
    TruncatedPoisson,
    check_adjacency,
)

SMALLEST_NOISE_OF_A_PASS = 0.05
"""Below this noise multiplier quotients of densities overflow, and the chance of a pass hardly protects."""

Numbers = npt.NDArray[np.float64]


class StepPair(Protocol):
    """A pair of distributions, in one direction."""

    @property
    def losses(self) -> tuple[float, float]:
        """The smallest and the largest privacy loss that count."""

    @property
    def shape(self) -> tuple[float, float]:
        """Standard deviation and width of the privacy loss."""

    def delta(self, epsilons: Numbers) -> Numbers:
        """Return the hockey-stick divergence at each epsilon, ascending, (n,)."""


def plain(mechanism: Mechanism, adjacency: Adjacency) -> Mechanism:
    """Return the mechanism, or Poisson sampling if it costs the same, or is the best bound that is known.

    Raises:
        ValueError: the mechanism has no epsilon under this adjacency.
    """
    check_adjacency((mechanism,), adjacency)
    noise = mechanism.noise_multiplier
    if isinstance(mechanism, FixedNumber) and mechanism.drawn == mechanism.units:
        return BucketMechanism(sampling_rate=1.0, noise_multiplier=noise)
    # A neighbour with one bucket more may be truncated where this data set is not.
    if isinstance(mechanism, TruncatedPoisson) and mechanism.most >= mechanism.units + (
        adjacency == "add_remove"
    ):
        return BucketMechanism(sampling_rate=mechanism.sampling_rate, noise_multiplier=noise)
    # Every bucket takes part in one step of a pass. Even if it were known in which one, a pass would cost no more than
    # one step with all buckets.
    if isinstance(mechanism, BallsInBins) and (
        adjacency == "replace" or mechanism.steps_per_pass == 1 or noise < SMALLEST_NOISE_OF_A_PASS
    ):
        return BucketMechanism(sampling_rate=1.0, noise_multiplier=noise)
    return mechanism


def of(
    mechanism: Mechanism, adjacency: Adjacency, *, most_noise: float, least_rate: float
) -> tuple[StepPair, ...]:
    """Return the pairs whose larger delta is that of the adjacency; none for Poisson sampling of single buckets.

    Args:
        mechanism: as `plain` returns it.
        adjacency: as in `accountants.epsilon`.
        most_noise: a larger noise multiplier counts as this one.
        least_rate: a smaller sampling rate counts as this one.

    Raises:
        TypeError: the mechanism is of an unknown type.
    """
    sigma = min(mechanism.noise_multiplier, most_noise)
    if type(mechanism) is BucketMechanism:
        return ()
    # Imported here because they import scipy.
    from accountants import allocation, fixed_number, mixtures, truncated  # noqa: PLC0415

    if isinstance(mechanism, SeveralBuckets):
        return mixtures.pairs(
            sampling_rate=max(mechanism.sampling_rate, least_rate),
            sigma=sigma,
            owned=mechanism.buckets_per_unit,
            adjacency=adjacency,
        )
    if isinstance(mechanism, FixedNumber):
        return (fixed_number.Subset(max(mechanism.sampling_rate, least_rate), sigma),)
    if isinstance(mechanism, TruncatedPoisson):
        return truncated.pairs(mechanism, sigma=sigma, adjacency=adjacency)
    if isinstance(mechanism, BallsInBins):
        return allocation.pairs(steps=mechanism.steps_per_pass, sigma=sigma)
    raise TypeError(f"no pair of distributions is known for {mechanism!r}")
