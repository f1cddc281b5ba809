"""The draws of buckets, selection of their records, and packing into physical batches."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
from torch.utils.data import Sampler

from .batch import Charge, Draw, PhysicalBatch
from .distributed import ALONE, Ranks
from .noise import NoiseSource
from .partition import IntArray
from .physical_limit import PhysicalLimit
from .plan import Plan

_EMPTY = PhysicalBatch(buckets=(), sizes=(), bucket_records=())

#: 2^64 / the golden ratio: its multiples modulo 2^64 are evenly spread (Knuth, volume 3, section 6.4).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class BucketSampler(Sampler[IntArray]):
    """Draws the buckets of a number of logical steps, as the plan's sampling says.

    If a bucket has more records than the plan uses per step, a step uses consecutive records of a fixed order, from a
    random start and with wrap-around, so that every record is used equally often. Start and order depend only on the
    number of records of the bucket, and on nothing outside it.

    A draw is kept until it is charged, and comes first in the next pass. So leaving a loop does not give a new draw. If
    buckets are assigned to the steps of a whole pass, the next pass is the rest of the assignment.

    As a ``Sampler`` it yields the record indices of one physical batch after another, and appends their descriptions to
    ``plans`` in the same order. An empty draw yields nothing and appends a batch without buckets.

    Args:
        plan: the run's plan.
        steps: logical steps in one pass.
        limit: most records in one physical batch; a larger bucket is split into equal parts.
        source: the random source of the draws.
        ranks: the processes that share the drawn buckets; an empty share counts as an empty draw on its rank.

    Attributes:
        max_buckets: most buckets in one physical batch; 1 until the dry runs allow more.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        steps: int,
        limit: PhysicalLimit,
        source: NoiseSource,
        ranks: Ranks = ALONE,
    ) -> None:
        self.plan = plan
        self.steps = steps
        self.limit = limit
        self.source = source
        self._ranks = ranks
        self.max_buckets = 1
        self.plans: deque[PhysicalBatch] = deque()
        self._drawn: deque[Draw] = deque()
        self._done = self._taken = 0
        self._packed_with: int | None = None

    @property
    def pending(self) -> tuple[Draw, ...]:
        """Draws that are not charged yet, in their order; none in a fork of the process that drew."""
        here = os.getpid()
        self._drawn = deque(draw for draw in self._drawn if not draw.spent and draw.process == here)
        return tuple(self._drawn)

    def begin_pass(self, *, released: int) -> None:
        """Wait for all ranks, and take over the draws of rank 0, including those that are not charged yet.

        Args:
            released: logical steps released so far.

        Raises:
            RuntimeError: another rank is at a different step, or is lost.
        """
        self._ranks.begin_pass(self.source, released=released)
        own = self.pending
        first = self._ranks.of_first([(draw.buckets, draw.starts) for draw in own])
        self._drawn = deque(
            own[i] if i < len(own) and _same(own[i], draw) else draw
            for i, draw in enumerate(self._as_draws(first))
        )

    def batches(self) -> Iterator[PhysicalBatch]:
        """Yield the physical batches of one pass, or of the rest of it; an empty draw is a batch without buckets."""
        (first, self._done), (taken, self._taken) = (self._done, 0), (self._taken, 0)
        packed_with, self._packed_with = self._packed_with, None
        pending = deque(self.pending)
        if self._whole_passes:
            pending = pending or deque(self._draw_all())
            first = self.steps - len(pending)
        for step in range(first, self.steps):
            draw = pending.popleft() if pending else self._draw()
            real = draw.buckets[draw.buckets < self.plan.partition.num_buckets]  # canaries have no records
            mine = self._ranks.share(real, self.plan.records_of[real])
            limit = packed_with or self.limit.records
            packed = list(self._packed(mine, draw.starts * self.plan.views, limit)) if len(mine) else [_EMPTY]
            for index in range(taken, len(packed)):
                yield dataclasses.replace(
                    packed[index],
                    completes_step=index == len(packed) - 1,
                    draw=draw,
                    index=index,
                    steps_of_pass=(step + 1) % self.steps,
                    limit=limit,
                )
            taken, packed_with = 0, None

    def go_on(self, done: int, pending: Iterable[tuple[IntArray, IntArray]]) -> None:
        """Start the next pass after ``done`` of its logical steps, with these buckets and starts."""
        self._done = done
        self._drawn = deque(self._as_draws(pending))
        self.limit.failed = None

    def go_on_with(self, failed: PhysicalBatch) -> None:
        """Start the next pass with the logical step that a physical batch did not complete."""
        self._done = self.steps_before(failed)

    def steps_before(self, failed: PhysicalBatch) -> int:
        """Return the steps of the pass that were charged when a physical batch failed."""
        assert failed.draw is not None  # no dry run
        return failed.steps_of_pass if failed.draw.spent else (failed.steps_of_pass - 1) % self.steps

    def go_on_after(self, batch: PhysicalBatch) -> None:
        """Start the next pass after this physical batch of the first pending draw."""
        self._taken, self._packed_with = batch.index + 1, batch.limit

    def __iter__(self) -> Iterator[IntArray]:
        """Yield the record indices of every physical batch of one pass."""
        for batch in self.batches():
            self.plans.append(batch)
            if batch.buckets:
                yield self.records(batch)

    def records(self, batch: PhysicalBatch) -> IntArray:
        """Return the indices of the records of one physical batch."""
        order, start = self._order, self.plan.partition.by_bucket[1]
        buckets, sizes = list(batch.buckets), np.asarray(batch.sizes)
        if len(buckets) == 1 and not self._takes_some and self.plan.views == 1:
            begin = int(start[buckets[0]]) + batch.starts[0]
            return order[begin : begin + batch.records]
        # Counts up within each bucket, without a loop over buckets.
        place = np.arange(batch.records) + np.repeat(
            np.asarray(batch.starts) - np.cumsum(sizes) + sizes, sizes
        )
        place //= self.plan.views  # the views of a record are neighbours
        if self._takes_some:
            place %= np.repeat(self.plan.partition.sizes[buckets], sizes)
        found: IntArray = order[place + np.repeat(start[buckets], sizes)]
        return found

    def expected_batches(self) -> float:
        """Return the expected number of physical batches in one pass, approximately: the last ones may not be full."""
        sizes, q = self.plan.records_of, self.plan.rate
        most = self.limit.records
        whole = sizes <= most
        parts = q * float((-(-sizes[~whole] // most)).sum())
        by_count = q * float(whole.sum()) / self.max_buckets
        by_records = q * float(sizes[whole].sum()) / most
        return self.steps * (parts + max(by_count, by_records)) / self._ranks.size

    @cached_property
    def _takes_some(self) -> bool:
        """Whether a step uses only some of the records of any bucket."""
        return bool((self.plan.used < self.plan.partition.sizes).any())

    @cached_property
    def _order(self) -> IntArray:
        """Record indices sorted by bucket, (N,); consecutive records of a bucket are used together."""
        order, start = self.plan.partition.by_bucket
        if not self._takes_some:
            return order
        # Neighbours in the data are often similar, so the order is mixed. It is mixed by a record's number within its
        # bucket, because by its index in the data the selection would depend on the size of other buckets.
        bucket = self.plan.partition.bucket_of[order]
        number = np.arange(len(order)) - start[bucket]
        return order[np.lexsort((number.astype(np.uint64) * _GOLDEN, bucket))]

    @property
    def _whole_passes(self) -> bool:
        """Whether the steps of a pass are drawn together, and have one charge."""
        return self.plan.sampling.steps_of_a_pass is not None

    def _draw(self) -> Draw:
        """Draw the buckets of one step."""
        (draw,) = self._draw_all()
        return draw

    def _draw_all(self) -> list[Draw]:
        """Draw the buckets of the next step, or of all steps of a pass."""
        plan = self.plan
        drawn = plan.sampling.draws(
            plan.sampling_rate, plan.buckets, lambda n: self.source.uniform(n).numpy()
        )
        draws = self._as_draws([(buckets, self._starts()) for buckets in drawn])
        while self._drawn and self._drawn[0].spent:
            self._drawn.popleft()
        self._drawn.extend(draws)
        return draws

    def _as_draws(self, pending: Iterable[tuple[IntArray, IntArray]]) -> list[Draw]:
        """Return the draws of these buckets and starts, which are those of single steps, or the rest of a pass."""
        draws = [
            Draw(buckets=buckets, starts=starts, digest=self._ranks.digest(buckets))
            for buckets, starts in pending
        ]
        if self._whole_passes:
            # A pass is charged with its first step, so of a pass that began something is missing here.
            charge = Charge(made=len(draws) < self.steps)
            for draw in draws:
                draw.charge = charge
        return draws

    def _starts(self) -> IntArray:
        """Return the start within each bucket, (K,); 0 for buckets whose records are all used."""
        sizes = self.plan.partition.sizes
        if not self._takes_some:
            return np.zeros_like(sizes)
        places = self.source.uniform(len(sizes)).numpy()
        return np.where(self.plan.used < sizes, (places * sizes).astype(np.int64), 0)

    def _packed(self, drawn: IntArray, starts: IntArray, limit: int) -> Iterator[PhysicalBatch]:
        """Pack the buckets of one logical step, the smallest first; buckets that are too large are split into parts."""
        sizes = self.plan.records_of[drawn]
        # Neighbours of equal size share their matrix products.
        order = np.argsort(sizes, kind="stable") if self.max_buckets > 1 else np.arange(len(drawn))
        drawn, sizes = drawn[order], sizes[order]
        first, end = 0, np.cumsum(sizes)
        while first < len(drawn):
            before = int(end[first] - sizes[first])
            # Greedy: as many buckets as fit. A bucket that does not fit alone is split.
            last = max(first + 1, int(np.searchsorted(end, before + limit, side="right")))
            last = min(last, first + self.max_buckets)
            if last == first + 1:
                bucket = int(drawn[first])
                yield from _parts(bucket, int(sizes[first]), int(starts[bucket]), limit)
            else:
                several = tuple(sizes[first:last].tolist())
                yield PhysicalBatch(
                    buckets=tuple(drawn[first:last].tolist()),
                    sizes=several,
                    bucket_records=several,
                    starts=tuple(starts[drawn[first:last]].tolist()),
                )
            first = last


def _parts(bucket: int, size: int, start: int, limit: int) -> Iterator[PhysicalBatch]:
    parts = -(-size // limit)
    bounds = [size * i // parts for i in range(parts + 1)]
    for i in range(parts):
        yield PhysicalBatch(
            buckets=(bucket,),
            sizes=(bounds[i + 1] - bounds[i],),
            bucket_records=(size,),
            starts=(start + bounds[i],),
            completes_bucket=i == parts - 1,
        )


def _same(one: Draw, other: Draw) -> bool:
    return np.array_equal(one.buckets, other.buckets) and np.array_equal(one.starts, other.starts)
