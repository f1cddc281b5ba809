"""The one frozen plan that sampler, optimizer and accountant are built from, so that they cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

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


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a training is between two logical steps.

    Args:
        steps: logical steps of the pass that are done; 0 where a new one begins.
        draws: where the stream of the draws is, see :class:`~dpmi.privacy.noise.NoiseSource`.
    """

    steps: int
    draws: Tensor


@dataclass(frozen=True, kw_only=True)
class PhysicalBatch:
    """What the loader says about the records it yields: several buckets, or a part of one, or none at all.

    The records of a bucket follow each other, in the order of ``buckets``. A bucket is whole when all the records are
    there that the logical step takes of it, see :attr:`Plan.records_of`.

    Args:
        buckets: ids of the k buckets in this physical batch.
        sizes: how many of its records each of them has here, (k,).
        bucket_records: how many records each whole one has, (k,); more than in ``sizes`` only where k = 1.
        starts: where in its bucket the first of these records is, (k,); after the last one comes the first.
        completes_bucket: no further part of the last bucket follows.
        completes_step: no further bucket follows in this logical step.
        draw: digest of what the logical step drew, on all ranks together.
        position: of the training after this logical step.
    """

    buckets: tuple[int, ...]
    sizes: tuple[int, ...]
    bucket_records: tuple[int, ...]
    starts: tuple[int, ...] = ()
    completes_bucket: bool = True
    completes_step: bool = False
    draw: int = 0
    position: Position | None = None

    @cached_property
    def records(self) -> int:
        """Records in this physical batch."""
        return sum(self.sizes)

    @property
    def is_part(self) -> bool:
        """Whether it holds a part of one bucket only."""
        return self.sizes != self.bucket_records
