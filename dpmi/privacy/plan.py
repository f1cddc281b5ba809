"""The plan of a run. Sampler, optimizer and accountant are built from it, so that they cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from accountants import checks
from accountants.mechanism import Mechanism

from .clipping import AdaptiveClipping, Clipping, check_clipping
from .partition import IntArray, Partition
from .samplers import POISSON, PoissonSampling, Sampling


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters of every logical step of a run ([Z20] Algorithm 2).

    Args:
        partition: the buckets.
        sampling: how the buckets of a step are drawn.
        sampling_rate: q in (0, 1], the probability of drawing one bucket, if ``sampling`` has one; else None.
        noise_multiplier: sigma >= 0, the noise's standard deviation / max_grad_norm.
        max_grad_norm: S > 0, the norm that one bucket's mean gradient is clipped to.
        max_records_per_bucket: a step uses at most this many records of each drawn bucket; None uses all. Their choice
            depends on nothing outside the bucket, so one bucket still contributes one clipped gradient, and the
            accounting is unchanged.
        views: how often a step uses each of these records, for augmentation: a bucket's mean gradient is that of all
            its views, which is one contribution as before.
        clipping: how a bucket's mean gradient is brought to at most S; see :mod:`dpmi.privacy.clipping`. The bound, and
            so the accounting, is the same.
        canaries: number of canary buckets of an audit; they have no records, and their ids follow those of the
            partition.

    >>> users = Partition.by_column(["al", "bo", "al", "cy"], unit="user")
    >>> plan = Plan(partition=users, sampling_rate=0.5, noise_multiplier=2.0, max_grad_norm=1.0)
    >>> plan.buckets, plan.expected_buckets, plan.used.tolist()
    (3, 1.5, [2, 1, 1])
    >>> plan.mechanism
    BucketMechanism(sampling_rate=0.5, noise_multiplier=2.0)
    """

    partition: Partition
    noise_multiplier: float
    max_grad_norm: float
    max_records_per_bucket: int | None = None
    views: int = 1
    clipping: Clipping = "flat"
    canaries: int = 0
    sampling_rate: float | None = None
    sampling: Sampling = POISSON

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0):
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be a finite number above 0")
        if self.max_records_per_bucket is not None and self.max_records_per_bucket < 1:
            raise ValueError(
                f"max_records_per_bucket is {self.max_records_per_bucket}; it must be at least 1, or None for all"
            )
        checks.integer("views", self.views, minimum=1)
        if not isinstance(self.sampling, Sampling):
            raise TypeError(
                f"sampling must be one of dpmi.privacy's samplers, such as PoissonSampling(), got {self.sampling!r}"
            )
        if self.canaries and not isinstance(self.sampling, PoissonSampling):
            raise ValueError(
                f"audit is given, but its tests are for Poisson draws, and sampling is {self.sampling}; audit a run "
                "with the default, PoissonSampling()"
            )
        self.sampling.check(self.sampling_rate, self.buckets)
        check_clipping(self.clipping)
        if self.canaries and self.clipping not in ("flat", "automatic"):
            raise ValueError(
                "an audit needs one fixed max_grad_norm for all parameters, which is the length of its canaries, but "
                f"clipping is {type(self.clipping).__name__}; audit a run with clipping 'flat' or 'automatic'"
            )
        if self.partition.buckets_per_unit > 1 and self.sampling != POISSON:
            raise ValueError(
                f"sampling is {self.sampling}, and one {self.partition.unit} owns up to "
                f"{self.partition.buckets_per_unit} buckets, which is accounted for with Poisson draws only; leave "
                "sampling out, or make a partition with buckets_per_owner=1"
            )
        _ = self.gradient_noise  # checks count_noise
        _ = self.mechanism  # checks noise_multiplier

    @cached_property
    def mechanism(self) -> Mechanism:
        """The mechanism that is charged for one logical step, or for those of a whole pass."""
        return self.sampling.mechanism(self.sampling_rate, self.buckets, self.noise_multiplier)

    @property
    def gradient_noise(self) -> float:
        """Noise multiplier of the gradients: that of the charge, unless a count is paid from it, too."""
        if isinstance(self.clipping, AdaptiveClipping):
            return self.clipping.noises(self.noise_multiplier, self.expected_buckets)[0]
        return self.noise_multiplier

    @cached_property
    def used(self) -> IntArray:
        """Number of different records of each bucket that a logical step uses if it draws the bucket, (K,)."""
        sizes = self.partition.sizes
        return sizes if self.max_records_per_bucket is None else sizes.clip(max=self.max_records_per_bucket)

    @cached_property
    def records_of(self) -> IntArray:
        """The same with every record as often as it has views: the rows of a bucket's gradient, (K,)."""
        return self.used * self.views

    @property
    def buckets(self) -> int:
        """Number of buckets that a step may draw: K, and the canaries."""
        return self.partition.num_buckets + self.canaries

    @property
    def expected_buckets(self) -> float:
        """The public divisor of the noisy sum: the expected number of buckets, qK, where K counts the canaries."""
        return self.sampling.expected_buckets(self.sampling_rate, self.buckets)

    @property
    def rate(self) -> float:
        """The probability that a bucket takes part in a step, before any truncation."""
        return self.sampling.rate(self.sampling_rate, self.buckets)
