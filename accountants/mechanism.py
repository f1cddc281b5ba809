"""One step of training, as far as privacy is concerned."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from accountants import checks


@dataclass(frozen=True, kw_only=True)
class BucketMechanism:
    """One noisy step: Poisson-sampled buckets, clipped, summed, plus Gaussian noise.

    Attributes:
        sampling_rate: probability q in (0, 1] that one bucket takes part in the step.
        noise_multiplier: sigma >= 0, the standard deviation of the noise divided by max_grad_norm, the
            largest norm of ONE bucket's contribution. The same number under both adjacencies: replacing a
            bucket moves the sum by up to 2 * max_grad_norm, and the accountants double the shift, not the
            user.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    Warns:
        UserWarning: sampling_rate is 1 (no amplification by sampling), or noise_multiplier is 0 (epsilon is
            infinite from the first step). Both are legitimate baselines and rarely what was meant.

    >>> BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    """

    sampling_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        """Check both numbers and store them as floats, so that equal steps compare equal."""
        object.__setattr__(self, "sampling_rate", checks.sampling_rate(self.sampling_rate))
        object.__setattr__(self, "noise_multiplier", checks.noise_multiplier(self.noise_multiplier))
        if self.sampling_rate == 1:
            warnings.warn(
                "sampling_rate is 1: every bucket takes part in every step, nothing is gained from sampling",
                UserWarning,
                stacklevel=3,
            )
        if self.noise_multiplier == 0:
            warnings.warn("noise_multiplier is 0: epsilon is infinite", UserWarning, stacklevel=3)


Totals = Mapping[BucketMechanism, int]
"""How often each mechanism ran, at least once each: all that a bound depends on, since order does not matter."""
