"""The one frozen plan that sampler, optimizer and accountant are built from, so that they cannot disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

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
    """What the loader says about the records it yields: several whole buckets, or a part of one, or none at all.

    The records of a bucket follow each other, in the order of ``buckets``.

    Args:
        buckets: ids of the k buckets in this physical batch.
        sizes: how many of its records each of them has here, (k,).
        bucket_records: how many records each of them has in all, (k,); more than in ``sizes`` only where k = 1.
        first: where a part starts in its bucket.
        completes_bucket: no further part of the last bucket follows.
        completes_step: no further bucket follows in this logical step.
        draw: digest of what the logical step drew, on all ranks together.
        position: of the training after this logical step.
    """

    buckets: tuple[int, ...]
    sizes: tuple[int, ...]
    bucket_records: tuple[int, ...]
    first: int = 0
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
