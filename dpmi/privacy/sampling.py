"""Poisson sampling of whole buckets, and the loader that yields them one physical batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset, default_collate

from .optimizer import BucketOptimizer
from .partition import IntArray
from .plan import PhysicalBatch, Plan


class BucketSampler(Sampler[IntArray]):
    """Draws every bucket independently with probability q, for a number of logical steps.

    Yields the record indices of one physical batch after another, and appends what they are to ``plans``, in
    the same order; an empty draw yields nothing and appends None.

    Args:
        plan: the run's plan.
        steps: logical steps in one pass.
        max_physical_batch_size: most records in one physical batch; a larger bucket is cut into equal parts.
        generator: source of the draws.
    """

    def __init__(
        self, plan: Plan, *, steps: int, max_physical_batch_size: int, generator: torch.Generator
    ) -> None:
        self._plan = plan
        self._steps = steps
        self._max_records = max_physical_batch_size
        self.generator = generator
        self.plans: deque[PhysicalBatch | None] = deque()

    def __iter__(self) -> Iterator[IntArray]:
        """One pass: the record indices of ``steps`` logical steps."""
        partition = self._plan.partition
        for _ in range(self._steps):
            # float64: a float32 uniform number has 2^-24 steps, which is coarse for a small sampling rate.
            uniform = torch.rand(partition.num_buckets, dtype=torch.float64, generator=self.generator)
            drawn = (uniform < self._plan.sampling_rate).nonzero().flatten().tolist()
            if not drawn:
                self.plans.append(None)
            for bucket in drawn:
                records = partition.records(bucket)
                num = -(-len(records) // self._max_records)
                parts = [records] if num == 1 else np.array_split(records, num)
                for i, part in enumerate(parts):
                    completes = i == len(parts) - 1
                    self.plans.append(
                        PhysicalBatch(
                            bucket=bucket,
                            records=len(part),
                            bucket_records=len(records),
                            completes_bucket=completes,
                            completes_step=completes and bucket == drawn[-1],
                        )
                    )
                    yield part

    def expected_batches(self) -> float:
        """Expected number of physical batches in one pass."""
        parts = -(-self._plan.partition.sizes // self._max_records)
        return self._steps * self._plan.sampling_rate * float(parts.sum())


class _Lists(Sampler[list[int]]):
    """The same indices as lists of Python integers, which every data set takes one by one."""

    def __init__(self, sampler: BucketSampler) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        return (records.tolist() for records in self._sampler)


class BucketDataLoader(DataLoader[Any]):
    """A DataLoader whose batches are drawn buckets, and which tells the optimizer what it yields.

    A pass is ``steps`` logical steps. An empty draw is stepped by the loader itself (noise only, billed), so the
    loop never sees an empty batch. Leaving a loop early drops the unfinished logical step. ``len()`` is not
    defined, because the number of physical batches is random: ``operator.length_hint`` gives its expectation.

    Args:
        source: the user's loader; its data set, collate function and workers are kept.
        sampler: the draws.
        optimizer: is told of every physical batch before it is yielded.
    """

    def __init__(
        self, source: DataLoader[Any], *, sampler: BucketSampler, optimizer: BucketOptimizer
    ) -> None:
        # A TensorDataset can be indexed by a whole batch at once, five times as fast as record by record.
        whole = isinstance(source.dataset, TensorDataset) and source.collate_fn is default_collate
        super().__init__(
            source.dataset,
            **({"batch_size": None, "sampler": sampler} if whole else {"batch_sampler": _Lists(sampler)}),
            collate_fn=None if whole else source.collate_fn,
            num_workers=source.num_workers,
            pin_memory=source.pin_memory,
            timeout=source.timeout,
            worker_init_fn=source.worker_init_fn,
            multiprocessing_context=source.multiprocessing_context,
            # Seeds the workers; without one of its own, a DataLoader draws from the global generator.
            generator=source.generator or sampler.generator,
            prefetch_factor=source.prefetch_factor,
        )
        self._buckets = sampler
        self._optimizer = optimizer
        self._whole = whole

    def __len__(self) -> int:
        """Not defined: the number of physical batches in a pass is random."""
        raise TypeError(
            "a private loader has no length: the number of physical batches is random. "
            "operator.length_hint(loader) is its expectation"
        )

    def __length_hint__(self) -> int:
        """Expected number of physical batches in one pass."""
        return round(self._buckets.expected_batches())

    def _fetched(self) -> Iterator[Any]:
        """The records of every physical batch; tensors in memory need none of a DataLoader's machinery."""
        if self._whole and self.num_workers == 0 and not self.pin_memory:
            # A DataLoader draws a seed for its workers; so does this, and a seed gives the same buckets either way.
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
            return (self.dataset[records] for records in self._buckets)
        return super().__iter__()

    def __iter__(self) -> Any:
        """Yield the physical batches of one pass, dropping whatever an earlier loop left unfinished."""
        optimizer, plans = self._optimizer, self._buckets.plans
        optimizer.abandon()
        plans.clear()
        try:
            for records in self._fetched():
                while (batch := plans.popleft()) is None:
                    optimizer.release()
                optimizer.begin(batch)
                yield records
                if optimizer.batch_is_pending:
                    raise RuntimeError(
                        f"optimizer.step() was not called for the last batch (bucket {batch.bucket}); call it once "
                        "for every batch. The logical step was dropped, nothing of it was released"
                    )
            for _ in range(len(plans)):  # empty draws at the end of the pass
                plans.popleft()
                optimizer.release()
        finally:
            optimizer.abandon()
