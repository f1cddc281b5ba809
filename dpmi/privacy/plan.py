"""The one frozen plan that sampler, optimizer and accountant are built from, so that they cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from accountants import BucketMechanism

from .partition import Partition


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one run does at every logical step ([Z20] Algorithm 2).

    Args:
        partition: the buckets.
        sampling_rate: q in (0, 1], the probability of drawing one bucket.
        noise_multiplier: sigma >= 0, the noise's standard deviation / max_grad_norm.
        max_grad_norm: S > 0, the norm that one bucket's mean gradient is clipped to.
    """

    partition: Partition
    sampling_rate: float
    noise_multiplier: float
    max_grad_norm: float

    def __post_init__(self) -> None:
        """Refuse what no run can be billed for; q and sigma are checked by the mechanism they make."""
        if not (math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0):
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be a finite number above 0")
        _ = self.mechanism

    @cached_property
    def mechanism(self) -> BucketMechanism:
        """What the accountants bill for one logical step."""
        return BucketMechanism(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier)

    @property
    def expected_buckets(self) -> float:
        """The public divisor qK of the noisy sum."""
        return self.sampling_rate * self.partition.num_buckets


@dataclass(frozen=True, kw_only=True)
class PhysicalBatch:
    """What the loader says about the records it yields: all of one bucket, or a part of it.

    One bucket at a time is what lets any loss be used: a loss that couples the records of a physical batch
    couples records of one bucket only, and the bucket's clipped gradient is still what is bounded.

    Args:
        bucket: the bucket's id.
        records: records in this physical batch.
        bucket_records: records in the whole bucket.
        completes_bucket: no further part of this bucket follows.
        completes_step: no further bucket follows in this logical step.
    """

    bucket: int
    records: int
    bucket_records: int
    completes_bucket: bool
    completes_step: bool
