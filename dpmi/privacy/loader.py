"""The loader that yields drawn buckets, one physical batch at a time, and says so to the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Sampler, TensorDataset, default_collate

from .distributed import ALONE, Ranks
from .gradients.choice import Choice
from .noise import NoiseSource
from .optimizer import BucketOptimizer
from .plan import PhysicalBatch, Position
from .rehearsal import Rehearsal
from .sampling import BucketSampler

_REHEARSED = (5, 3)
"""Records of the two buckets of a rehearsal, or fewer. Not equal, and few: layers that put the records in another
dimension do not meet the same number there."""


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

    Where physical batches are to hold several buckets, the first pass begins with a rehearsal of three small batches,
    of which nothing is released: see :class:`Rehearsal`.

    Args:
        source: the user's loader; its data set, collate function and workers are kept.
        sampler: the draws.
        optimizer: is told of every physical batch before it is yielded.
        choice: how many buckets share a physical batch, if the rehearsal finds nothing against it.
        ranks: with which every pass is begun and rehearsed together.
    """

    def __init__(
        self,
        source: DataLoader[Any],
        *,
        sampler: BucketSampler,
        optimizer: BucketOptimizer,
        choice: Choice,
        ranks: Ranks = ALONE,
    ) -> None:
        # A TensorDataset can be indexed by a whole batch at once, many times as fast as record by record.
        dataset = source.dataset
        tensors = dataset if isinstance(dataset, TensorDataset) else None
        plain = tensors is not None and source.collate_fn is default_collate
        super().__init__(
            dataset,
            **({"batch_size": None, "sampler": sampler} if plain else {"batch_sampler": _Lists(sampler)}),
            collate_fn=None if plain else source.collate_fn,
            num_workers=source.num_workers,
            pin_memory=source.pin_memory,
            timeout=source.timeout,
            worker_init_fn=source.worker_init_fn,
            multiprocessing_context=source.multiprocessing_context,
            # Seeds the workers; without one of its own, a DataLoader draws from the global generator. It is not that
            # of the draws: buckets do not depend on how their records are fetched.
            generator=source.generator or _generator(sampler.source),
            prefetch_factor=source.prefetch_factor,
        )
        self.draws = sampler
        """Which buckets a pass draws."""
        self._optimizer = optimizer
        self._whole = tensors if plain else None
        self._choice = choice
        self._max_buckets = min(choice.max_buckets, sampler.plan.partition.num_buckets)
        self._ranks = ranks

    def __len__(self) -> int:
        """Not defined: the number of physical batches in a pass is random."""
        raise TypeError(
            "a private loader has no length: the number of physical batches is random. "
            "operator.length_hint(loader) is its expectation"
        )

    def __length_hint__(self) -> int:
        """Expected number of physical batches in one pass, on this rank."""
        return round(self.draws.expected_batches())

    def __iter__(self) -> Any:
        """Yield the physical batches of one pass, dropping whatever an earlier loop left unfinished."""
        optimizer = self._optimizer
        optimizer.abandon()
        self.draws.plans.clear()
        try:
            self._ranks.begin_pass(self.draws.source, released=optimizer.released_steps)
            if self.draws.max_buckets < self._max_buckets:
                yield from self._rehearse()
            for batch, records in self.batches():
                if not batch.buckets:
                    optimizer.release(batch)
                    continue
                optimizer.begin(batch)
                yield records
                self._check_stepped(batch)
        finally:
            optimizer.abandon()

    def batches(self) -> Iterator[tuple[PhysicalBatch, Any]]:
        """Every physical batch of a pass and its records; an empty draw has none."""
        if self._whole is not None and self.num_workers == 0 and not self.pin_memory:
            # Tensors in memory need none of a DataLoader's machinery.
            tensors = self._whole.tensors
            for batch in self.draws.batches():
                if not batch.buckets:
                    yield batch, None
                    continue
                # As fast as slices of a copy that is sorted by bucket: 120 images of 28 x 28 in 9 us, either way.
                index = torch.from_numpy(self.draws.records(batch))
                yield batch, tuple(t.index_select(0, index.to(t.device)) for t in tensors)
            return
        plans = self.draws.plans
        for records in super().__iter__():
            while not (batch := plans.popleft()).buckets:
                yield batch, None
            yield batch, records
        while plans:  # empty draws at the end of the pass
            yield plans.popleft(), None

    def training_position(self) -> Position:
        """Where the training is, to go on from there: after the last released step, or where a new pass begins."""
        source = self.draws.source
        return self._optimizer.position or Position(steps=0, draws=source.draws_state())

    def _rehearse(self) -> Iterator[Any]:
        """Let the user's loop rehearse, then allow several buckets in one physical batch, or do not."""
        partition = self.draws.plan.partition
        sizes = tuple(min(most, int(size)) for most, size in zip(_REHEARSED, partition.sizes, strict=False))
        both = self._collated([int(i) for k, size in enumerate(sizes) for i in partition.records(k)[:size]])
        rehearsal = Rehearsal()
        # It leaves no trace in torch's global generators either.
        with torch.random.fork_rng(_devices(self._optimizer.params)):
            for buckets in ((0, 1), (0,), (1,)):
                own = tuple(sizes[bucket] for bucket in buckets)
                batch = PhysicalBatch(buckets=buckets, sizes=own, bucket_records=own)
                first = sum(sizes[: buckets[0]])
                self._optimizer.begin(batch, rehearsal=rehearsal)
                yield _part(both, sum(sizes), first, batch.records)
                self._check_stepped(batch)
        # The same records everywhere, but rounding may differ, and so may user code.
        if not self._ranks.any(rehearsal.problem is not None):
            if rehearsal.work > self._choice.most_work:
                self._max_buckets = 1
            self.draws.max_buckets = self._max_buckets
        elif self._choice.insist:
            problem = rehearsal.problem or "another rank found that buckets do not keep apart"
            raise RuntimeError(f"{problem}; nothing was released. Use grad_sample_mode='stream'")
        else:
            self._max_buckets = 1

    def _collated(self, records: list[int]) -> Any:
        if self._whole is not None:
            return self._whole[torch.tensor(records)]
        fetch = getattr(self.dataset, "__getitems__", None)
        return self.collate_fn(fetch(records) if fetch else [self.dataset[i] for i in records])

    def _check_stepped(self, batch: PhysicalBatch) -> None:
        if self._optimizer.batch_is_pending:
            raise RuntimeError(
                f"optimizer.step() was not called for the last batch (bucket {batch.buckets[0]}); call it once for "
                "every batch. The logical step was dropped, nothing of it was released"
            )


def _devices(parameters: list[nn.Parameter]) -> set[torch.device]:
    return {p.device for p in parameters if p.device.type == "cuda"}


def _generator(source: NoiseSource) -> torch.Generator:
    return torch.Generator().manual_seed(int(float(source.uniform(1)) * 2**53))


def _part(batch: Any, records: int, first: int, count: int) -> Any:
    """Some of the records of a collated batch."""
    return tree_map(
        lambda x: x[first : first + count] if isinstance(x, Tensor) and x.dim() and len(x) == records else x,
        batch,
    )
