"""Descriptions of what the loader yields: the draw of a logical step, and the records of a physical batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from .partition import IntArray


@dataclass(eq=False)
class Charge:
    """A charge, and whether it was made: one step's, or that of a pass, whose draws have it in common."""

    made: bool = False


@dataclass(kw_only=True, eq=False)
class Draw:
    """The draw of one logical step. It is kept until it is charged: a loop that is left early gets it again.

    Args:
        buckets: ids of the drawn buckets of all ranks, and of the drawn canaries of an audit, (n,), ascending.
        starts: index within each bucket of the first record to use, (K,).
        digest: a hash that the ranks compare.
        process: id of the process that drew; a fork of it draws anew.
        spent: whether the step was charged.
        charge: what pays for the step.
    """

    buckets: IntArray
    starts: IntArray
    digest: int
    process: int = field(default_factory=os.getpid)
    spent: bool = False
    charge: Charge = field(default_factory=Charge)


@dataclass(frozen=True, kw_only=True)
class LoaderPosition:
    """The position of a training between two logical steps.

    Args:
        steps: completed logical steps of the pass; 0 at the start of a pass.
        pending: draws that are not charged yet, in their order.
        draws: state of the random stream of the draws after them, see :class:`~dpmi.privacy.noise.NoiseSource`.
    """

    steps: int
    pending: tuple[Draw, ...]
    draws: Tensor


@dataclass(frozen=True, kw_only=True)
class PhysicalBatch:
    """Description of the records of a physical batch: several buckets, a part of one, or none.

    The records are grouped by bucket, in the order of ``buckets``. A bucket is complete when the batch holds all of the
    records that the logical step uses of it, see :attr:`dpmi.privacy.plan.Plan.records_of`.

    Args:
        buckets: ids of the k buckets in this physical batch.
        sizes: records of each bucket in this physical batch, (k,).
        bucket_records: records of each bucket in the logical step, (k,); larger than ``sizes`` only if k = 1.
        starts: index within its bucket of each bucket's first record, times the number of views, (k,); indices wrap
            around at the bucket's end.
        completes_bucket: whether this is the last part of the last bucket.
        completes_step: whether this is the last physical batch of the logical step.
        draw: the draw of the logical step; None in a dry run, of which nothing is released.
        index: number of this physical batch in its logical step.
        steps_of_pass: completed logical steps of the pass after this one; 0 after the last.
        limit: the most records of a physical batch when the step's buckets were packed; ``index`` counts with it.

    >>> several = PhysicalBatch(buckets=(2, 5), sizes=(3, 1), bucket_records=(3, 1))
    >>> part = PhysicalBatch(buckets=(7,), sizes=(8,), bucket_records=(20,), completes_bucket=False)
    >>> (several.records, several.is_part), (part.records, part.is_part)
    ((4, False), (8, True))
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
    limit: int = 0

    @cached_property
    def records(self) -> int:
        """Number of records in this physical batch."""
        return sum(self.sizes)

    @property
    def is_part(self) -> bool:
        """Whether the batch holds only a part of one bucket."""
        return self.sizes != self.bucket_records
