"""What the loader hands over: what a logical step drew, and which records of it are in a physical batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from .partition import IntArray


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
class LoaderPosition:
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
    there that the logical step takes of it, see :attr:`dpmi.privacy.plan.Plan.records_of`.

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
