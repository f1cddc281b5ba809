"""The one frozen plan that sampler, optimizer and accountant are built from, so that they cannot disagree."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
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


@dataclass(kw_only=True, eq=False)
class Draw:
    """What one logical step drew. It is kept until it is billed: whoever leaves the loop meets it again.

    Args:
        buckets: drawn on all ranks together, (n,).
        starts: where what is taken of each bucket begins, (K,).
        digest: what the ranks compare.
        process: id of the process that drew; a fork of it draws for itself.
        spent: whether the step was billed.
    """

    buckets: IntArray
    starts: IntArray
    digest: int
    process: int = field(default_factory=os.getpid)
    spent: bool = False


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a training is between two logical steps.

    Args:
        steps: logical steps of the pass that are done; 0 where a new one begins.
        pending: what was drawn and is not billed yet, in its order.
        draws: where the stream of the draws is after them, see :class:`~dpmi.privacy.noise.NoiseSource`.
    """

    steps: int
    pending: tuple[Draw, ...]
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
        draw: of the logical step; None in a batch of which nothing is released.
        index: number of this physical batch in its logical step.
        steps_of_pass: logical steps of the pass that are done after this one; 0 after the last.
    """

    buckets: tuple[int, ...]
    sizes: tuple[int, ...]
    bucket_records: tuple[int, ...]
    starts: tuple[int, ...] = ()
    completes_bucket: bool = True
    completes_step: bool = False
    draw: Draw | None = None
    index: int = 0
    steps_of_pass: int = 0

    @cached_property
    def records(self) -> int:
        """Records in this physical batch."""
        return sum(self.sizes)

    @property
    def is_part(self) -> bool:
        """Whether it holds a part of one bucket only."""
        return self.sizes != self.bucket_records
