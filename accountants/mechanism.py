"""The privacy mechanism of one training step."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from accountants import checks


@dataclass(frozen=True, kw_only=True)
class BucketMechanism:
    """One noisy step: the clipped contributions of Poisson-sampled buckets, summed, plus Gaussian noise.

    Attributes:
        sampling_rate: probability q in (0, 1] that a bucket takes part in the step.
        noise_multiplier: sigma >= 0, the standard deviation of the noise divided by max_grad_norm, the largest norm
            of ONE bucket's contribution. It is the same number under both adjacencies: replacing a bucket moves the
            sum by up to 2 * max_grad_norm, and the accountants apply this factor 2 themselves.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    Warns:
        UserWarning: noise_multiplier is 0: epsilon is infinite from the first step. This is a legitimate baseline, but
            rarely intended.

    >>> BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    """

    sampling_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        # Stored as floats, so that equal steps compare and hash equal.
        object.__setattr__(self, "sampling_rate", checks.sampling_rate(self.sampling_rate))
        object.__setattr__(self, "noise_multiplier", checks.noise_multiplier(self.noise_multiplier))
        if self.noise_multiplier == 0:
            warnings.warn("noise_multiplier is 0: epsilon is infinite", UserWarning, stacklevel=3)


@dataclass(frozen=True, kw_only=True)
class SeveralBuckets(BucketMechanism):
    """The same step, for a unit that owns several of the separately sampled buckets.

    It is not what a run releases, so a ledger never holds it, but how a run looks to a larger unit.

    Attributes:
        buckets_per_unit: k >= 1, the most buckets that one unit owns.
    """

    buckets_per_unit: int

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("buckets_per_unit", self.buckets_per_unit, minimum=1)


def owned(mechanism: BucketMechanism) -> int:
    """Return the number of buckets that one unit owns."""
    return mechanism.buckets_per_unit if isinstance(mechanism, SeveralBuckets) else 1


def for_units(totals: "Totals", buckets_per_unit: int) -> "Totals":
    """Return the steps as they look to units that own up to so many buckets.

    Raises:
        TypeError, ValueError: it is not an integer of at least 1.
    """
    if checks.integer("buckets_per_unit", buckets_per_unit, minimum=1) == 1:
        return totals
    return {
        SeveralBuckets(
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            buckets_per_unit=buckets_per_unit,
        ): steps
        for mechanism, steps in totals.items()
    }


def noiseless(mechanisms: Iterable[BucketMechanism]) -> bool:
    """Whether a step adds no noise, so that no epsilon bounds the release."""
    return any(mechanism.noise_multiplier == 0 for mechanism in mechanisms)


Totals = Mapping[BucketMechanism, int]
"""Number of steps >= 1 of each mechanism. A bound depends on nothing else, because the order does not matter."""
