"""The one frozen plan that sampler, optimizer and accountant are built from, so that they cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from accountants import BucketMechanism

from .partition import IntArray, Partition


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one run does at every logical step ([Z20] Algorithm 2).

    Args:
        partition: the buckets.
        sampling_rate: q in (0, 1], the probability of drawing one bucket.
        noise_multiplier: sigma >= 0, the noise's standard deviation / max_grad_norm.
        max_grad_norm: S > 0, the norm that one bucket's mean gradient is clipped to.
        max_records_per_bucket: a larger bucket that is drawn is represented by so many of its records; None by all.
            Which they are depends on nothing outside the bucket, so that its clipped gradient is still what one bucket
            adds, and the accounting is the same.
    """

    partition: Partition
    sampling_rate: float
    noise_multiplier: float
    max_grad_norm: float
    max_records_per_bucket: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no run can be billed for; q and sigma are checked by the mechanism they make."""
        if not (math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0):
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be a finite number above 0")
        if self.max_records_per_bucket is not None and self.max_records_per_bucket < 1:
            raise ValueError(
                f"max_records_per_bucket is {self.max_records_per_bucket}; it must be at least 1, or None for all"
            )
        _ = self.mechanism

    @cached_property
    def mechanism(self) -> BucketMechanism:
        """What the accountants bill for one logical step."""
        return BucketMechanism(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier)

    @cached_property
    def records_of(self) -> IntArray:
        """How many records of each bucket one logical step takes, if it draws the bucket, int array (K,)."""
        sizes = self.partition.sizes
        return sizes if self.max_records_per_bucket is None else sizes.clip(max=self.max_records_per_bucket)

    @property
    def expected_buckets(self) -> float:
        """The public divisor qK of the noisy sum."""
        return self.sampling_rate * self.partition.num_buckets
