"""The private loader: it yields the drawn buckets in physical batches, and announces each batch to the optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset, default_collate

from .batch import LoaderPosition, PhysicalBatch
from .collate import Buckets, merge
from .distributed import ALONE, Ranks
from .dry_run import DryRun
from .gradients.strategy import LOG, ONE_AT_A_TIME, Choice
from .isolation.program import RECORDS
from .noise import NoiseSource
from .optimizer import BucketOptimizer
from .physical_limit import is_out_of_memory
from .sampling import BucketSampler
from .structures import map_tensors
from .waits import sent

SMALL_WORK = 2**30
"""Multiply-adds of a forward pass on a physical batch below which one process per core is faster than threads. At 2^28
(MNIST CNN of 26 k parameters) two processes were 1.82 times as fast as one with two threads; a core does 2^30 in about
0.1 seconds, in which some dozens of calls wait for the slower thread."""


class _Lists(Sampler[list[list[int]]]):
    """The sampler's indices, as one list of Python integers per bucket."""

    def __init__(self, sampler: BucketSampler) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[list[list[int]]]:
        for records in self._sampler:
            sizes = self._sampler.plans[-1].sizes
            yield [part.tolist() for part in np.split(records, np.cumsum(sizes)[:-1])]


class _Whole(TensorDataset):
    """Tensors, of which a DataLoader fetches a whole batch by one index."""

    def __getitems__(self, index: Any) -> Any:
        return self[index]


def _as_it_is(batch: Any) -> Any:
    return batch


class BucketDataLoader(DataLoader[Any]):
    """A DataLoader whose batches are drawn buckets; it announces every batch to the optimizer.

    A pass is ``steps`` logical steps. For an empty draw, the loader itself takes the step (noise only, charged), so the
    loop never sees an empty batch. ``len()`` is not defined, because the number of physical batches is random;
    ``operator.length_hint`` gives its expectation.

    Leaving a loop early does not change which buckets are drawn. The partial sum of the unfinished logical step is
    dropped, and the next pass starts with the same draw, from its first physical batch. There is one exception: if
    ``optimizer.step()`` is called for the last batch after the loop was left, as with ``x, y = next(iter(loader))``,
    the next pass continues with the following physical batch.

    If physical batches may hold several buckets, the first pass starts with two dry runs on copies of one record;
    nothing of them is released, see :class:`~dpmi.privacy.dry_run.DryRun`. The collate function is called once per
    bucket, so it cannot mix records of different buckets.

    Args:
        source: the user's loader; its data set, collate function and workers are kept.
        sampler: the draws.
        optimizer: gets the description of every physical batch before the batch is yielded.
        choice: how many buckets share a physical batch, if the dry runs find no problem.
        ranks: the processes that start every pass together and agree on the dry runs.

    >>> import operator
    >>> from dpmi.privacy import Partition, PrivacyEngine
    >>> x, users = torch.randn(200, 3), torch.arange(200) // 2
    >>> model = nn.Linear(3, 4)
    >>> model, optimizer, loader = PrivacyEngine().make_private(
    ...     module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...     data_loader=DataLoader(TensorDataset(x, torch.arange(200) % 4), batch_size=8),
    ...     partition=Partition.by_column(users, unit="user"),
    ...     sampling_rate=0.1, noise_multiplier=2.0, max_grad_norm=1.0)
    >>> type(loader).__name__, loader.draws.steps, loader.draws.plan.expected_buckets
    ('BucketDataLoader', 10, 10.0)
    >>> operator.length_hint(loader)  # without a criterion, a physical batch holds one user
    100
    """

    _is_accelerate_prepared = (
        True  # Accelerator.prepare() would build another loader, which announces no batch
    )

    def __init__(
        self,
        source: DataLoader[Any],
        *,
        sampler: BucketSampler,
        optimizer: BucketOptimizer,
        choice: Choice,
        ranks: Ranks = ALONE,
    ) -> None:
        # A TensorDataset can be indexed by a whole batch at once, which is much faster than record by record.
        # A subclass may change the records in its __getitem__.
        dataset: Any = source.dataset
        plain = type(dataset) is TensorDataset and source.collate_fn is default_collate
        whole = _Whole(*dataset.tensors) if plain else None
        batches: Any = sampler if plain else _Lists(sampler)
        super().__init__(
            Buckets(dataset, source.collate_fn) if whole is None else whole,
            batch_sampler=batches,
            collate_fn=_as_it_is if plain else merge,
            num_workers=source.num_workers,
            pin_memory=source.pin_memory,
            timeout=source.timeout,
            worker_init_fn=source.worker_init_fn,
            multiprocessing_context=source.multiprocessing_context,
            # This generator seeds the workers; without it, a DataLoader draws from the global generator. It is separate
            # from the stream of the draws, so that the drawn buckets do not depend on how records are fetched.
            generator=source.generator or _generator(sampler.source),
            prefetch_factor=source.prefetch_factor,
        )
        self.draws = sampler
        """The sampler, which draws the buckets."""
        self._optimizer = optimizer
        self._whole = whole
        self._choice = choice
        self._max_buckets = min(choice.max_buckets, sampler.plan.partition.num_buckets)
        self._dry = DryRun() if self._max_buckets > 1 else None
        self._ranks = ranks
        self._pass: object | None = None
        self._dry_run: Iterator[Any] | None = None

    def __len__(self) -> int:
        raise TypeError(
            "a private loader has no length: the number of physical batches is random. "
            "operator.length_hint(loader) is its expectation"
        )

    def __length_hint__(self) -> int:
        """Return the expected number of physical batches in one pass, on this rank."""
        return round(self.draws.expected_batches())

    def __iter__(self) -> Any:
        """Yield the physical batches of one pass, starting with draws that an earlier loop left unfinished.

        Raises:
            RuntimeError: ``optimizer.step()`` was not called for the last batch, its logical step was dropped after an
                error, or another loop over this loader was started meanwhile.
        """
        optimizer = self._optimizer
        self._take_up()
        this = self._pass = object()
        try:
            self.draws.begin_pass(released=optimizer.released_steps)
            if self._dry is not None:
                # Stored, because a loop of next(iter(loader)) consumes it over several passes.
                self._dry_run = self._dry_run or self._run_dry()
                for records in self._dry_run:
                    yield records
                    self._check_newest(this)
            for batch, records in self.batches():
                if not batch.buckets:
                    optimizer.release(batch)
                    continue
                optimizer.begin(batch)
                yield self._shared(records, batch)
                self._check_newest(this)
                self._check_stepped(batch)
                self._check_taken(batch)
        finally:
            # A generator is closed at garbage collection, which may happen in the middle of the next pass.
            if self._pass is this:
                self._pass = None
                if not optimizer.batch_is_pending:
                    optimizer.abandon()
                    self._start_dry_runs_anew()

    def batches(self) -> Iterator[tuple[PhysicalBatch, Any]]:
        """Yield every physical batch of a pass with its records; an empty draw has no records."""
        if self._whole is not None and self.num_workers == 0 and not self.pin_memory:
            # Tensors in memory do not need the machinery of a DataLoader.
            tensors = self._whole.tensors
            for batch in self.draws.batches():
                if not batch.buckets:
                    yield batch, None
                    continue
                # As fast as slices of a copy sorted by bucket: both take 9 us for 120 images of 28 x 28.
                index = torch.from_numpy(self.draws.records(batch))
                on = {device: sent(index, device) for device in {t.device for t in tensors}}
                yield batch, tuple(t.index_select(0, on[t.device]) for t in tensors)
            return
        plans = self.draws.plans
        for records in super().__iter__():
            while not (batch := plans.popleft()).buckets:
                yield batch, None
            yield batch, records
        while plans:  # empty draws at the end of the pass
            yield plans.popleft(), None

    def training_position(self) -> LoaderPosition:
        """Return the position to resume from: after the last released step, or at the start of a pass."""
        failed = self._failed
        return LoaderPosition(
            steps=self.draws.steps_before(failed)
            if failed is not None
            else 0
            if self._pass is None
            else self._optimizer.steps_of_pass,
            pending=self.draws.pending,
            draws=self.draws.source.draws_state(),
        )

    @property
    def is_between_steps(self) -> bool:
        """True when a training can be resumed from here: outside of a pass, or in a pass after a released step.

        Outside of a pass, an unfinished draw starts again when the training is resumed.
        """
        return self._pass is None or self._optimizer.is_between_steps

    def makes_room(self, error: BaseException) -> bool:
        """Return whether another loop may succeed after an error: memory did not suffice, and batches are smaller now.

        Call it in the ``except`` clause around a loop, and start the loop again after the clause. Errors of a backward
        pass outside of the private criterion are noticed only here, except on a GPU.
        """
        self._optimizer.notice(error)
        failed = self._failed if is_out_of_memory(error) else None
        return failed is not None and failed.records > 1 and not (failed.draw and failed.draw.spent)

    @property
    def _failed(self) -> PhysicalBatch | None:
        """The physical batch that did not fit into memory in the last loop.

        Several ranks do not share it, so each starts a new pass after an error, with the same draw.
        """
        failed = self._optimizer.limit.failed
        return None if failed is None or failed.draw is None or self._ranks.size > 1 else failed

    def _take_up(self) -> None:
        """Continue after the last batch if it was stepped after its loop ended; otherwise drop the unfinished step."""
        self._optimizer.notice()
        if (failed := self._failed) is not None:
            self.draws.go_on_with(failed)
        self._optimizer.limit.failed = None
        left, pending = self._optimizer.taken, self.draws.pending
        self.draws.plans.clear()
        if self._optimizer.batch_is_pending or self._pass is not None:
            self._start_dry_runs_anew()
            left = None
        if left is not None and pending and pending[0] is left.draw:
            self.draws.go_on_after(left)
        else:
            self._optimizer.abandon()

    def _start_dry_runs_anew(self) -> None:
        """Discard the dry runs of a loop that was left, because the next loop may be a different one."""
        self._dry_run = None
        if self._dry is not None:
            self._dry = DryRun()

    def _run_dry(self) -> Iterator[Any]:
        """Run the user's loop dry, then decide whether physical batches may hold several buckets."""
        dry = self._dry
        assert dry is not None
        record = int(self.draws.plan.partition.records(0)[0])
        while not dry.is_over and dry.problem is None:
            records = RECORDS[dry.round]
            sizes = (1, records - 1)
            batch = PhysicalBatch(buckets=(0, 0), sizes=sizes, bucket_records=sizes)
            # A dry run must not advance torch's global generators. No context manager does this: if the loop was left
            # here, it would restore them at garbage collection, in the middle of something else.
            states = [(g, g.get_state()) for g in _global_generators(self._optimizer.params)]
            dry.begin()
            self._optimizer.begin(batch, dry=dry)
            yield self._shared(self._copies(record, sizes), batch)
            for generator, state in states:
                generator.set_state(state)
            self._check_stepped(batch)
        # All ranks use the same record, but their user code may differ.
        found = self._ranks.any(dry.problem is not None)
        self._optimizer.limit.suit(dry.bytes_per_record)
        self._suggest_processes(dry)
        if not found:
            if dry.work <= self._choice.most_work:
                self._optimizer.agree(dry)
                self.draws.max_buckets = self._max_buckets
            else:
                LOG.info(ONE_AT_A_TIME, "the compute per record is enough to keep the machine busy")
        else:
            problem = dry.problem or "another rank found that buckets are mixed"
            if self._choice.insist:
                raise RuntimeError(
                    f"several buckets cannot share a physical batch: {problem}; nothing was released. Use "
                    "grad_sample_mode='stream' without a criterion"
                )
            LOG.warning(ONE_AT_A_TIME, problem)
        self._dry = None

    def _suggest_processes(self, dry: DryRun) -> None:
        """Log that several processes are faster, if the threads of this one have little to share."""
        threads, sampler = torch.get_num_threads(), self.draws
        records = min(sampler.limit.records, sampler.plan.rate * float(sampler.plan.records_of.sum()))
        work = dry.work * records
        on_cpu = self._optimizer.params[0].device.type == "cpu"
        if on_cpu and threads > 1 and self._ranks.size == 1 and 0 < work < SMALL_WORK:
            LOG.info(
                "the model is small (%.1e multiply-adds in a physical batch of %d records), so %d threads "
                "hardly help each other; one process per core is faster: OMP_NUM_THREADS=1 torchrun "
                "--nproc-per-node %d, see docs/distributed.md",
                work, records, threads, threads,
            )  # fmt: skip

    def _copies(self, record: int, sizes: tuple[int, ...]) -> Any:
        """Return a batch of copies of one record."""
        if self._whole is not None:
            return self._whole[torch.full((sum(sizes),), record)]
        return self.collate_fn([self.dataset[[record] * size] for size in sizes])

    def _shared(self, records: Any, batch: PhysicalBatch) -> Any:
        """Return a physical batch for the loop; with several buckets, its tensors track their records."""
        shared = self._optimizer.shared
        if shared is None:
            return records
        number = itertools.count()

        def take_in(t: Tensor) -> Tensor:
            if t.dim() == 0 or len(t) != batch.records:
                raise RuntimeError(
                    f"the loader collated {batch.records} records to a tensor of shape {tuple(t.shape)}, whose first "
                    "dimension does not hold them; use grad_sample_mode='stream' without a criterion"
                )
            return shared.take_in(t, str(next(number)))

        return map_tensors(take_in, records)

    def _check_stepped(self, batch: PhysicalBatch) -> None:
        if self._optimizer.batch_is_pending:
            self._optimizer.abandon()
            raise RuntimeError(
                f"optimizer.step() was not called for the last batch (bucket {batch.buckets[0]}); call it once for "
                "every batch. The logical step was dropped; nothing of it was released"
            )

    def _check_newest(self, this: object) -> None:
        if self._pass is not this:
            raise RuntimeError(
                "another loop over this loader was started, so this one ended: run one loop at a time"
            )

    def _check_taken(self, batch: PhysicalBatch) -> None:
        """Stop a loop that swallows errors, because it would continue without the dropped buckets."""
        draw = batch.draw
        if self._optimizer.taken is not batch and not (draw is not None and draw.spent):
            raise RuntimeError(
                "the logical step was dropped, because optimizer.step() raised an error; nothing of it was released. "
                "The pass has ended: fix the cause, and start a new loop, which begins with the same draw"
            )


def repeated(loader: DataLoader[Any], one_pass: Callable[[], None]) -> None:
    """Make a pass over a loader; if memory does not suffice, make the rest of it in smaller physical batches.

    Args:
        loader: the loader; if it is not private, every error is raised.
        one_pass: the loop over it, in a function of its own, whose tensors are freed when it fails.
    """
    while True:
        try:
            one_pass()
            return
        except Exception as error:
            if not (isinstance(loader, BucketDataLoader) and loader.makes_room(error)):
                raise


def _global_generators(parameters: list[nn.Parameter]) -> list[torch.Generator]:
    cuda = {p.device.index for p in parameters if p.device.type == "cuda"}
    return [torch.default_generator, *(torch.cuda.default_generators[i] for i in sorted(cuda))]


def _generator(source: NoiseSource) -> torch.Generator:
    return torch.Generator().manual_seed(int(float(source.uniform(1)) * 2**53))
