"""Opacus's DPOptimizer, but it clips buckets instead of records, with one noisy update per logical step."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from .batch import Draw, PhysicalBatch
from .clipping import clipping_factors
from .distributed import ALONE, Ranks
from .dry_run import DryRun
from .exclusive import Claim
from .fingerprint import Fingerprint
from .from_opacus import SKIPS_STEPS, Fixed
from .grad_sample import BucketGradSampleModule
from .gradients.bucket_gradients import BucketGradients, Rows
from .gradients.running_sum import RunningSum
from .gradients.sharded_sum import ShardedSum
from .isolation.shared import Shared
from .noise import NoiseSource
from .observer import Observer
from .parameter_groups import ParameterGroups
from .physical_limit import PhysicalLimit, is_out_of_memory
from .plan import Plan
from .sharded import Sharding
from .unclipped_count import UnclippedCount
from .waits import Doubt, read


class NonFiniteGradientError(RuntimeError):
    """A bucket's gradient is NaN or infinite; the logical step was dropped before anything was released.

    >>> from torch import nn
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from dpmi.privacy import Partition, PrivacyEngine
    >>> x, y = torch.full((40, 3), torch.nan), torch.arange(40) % 4
    >>> model, engine = nn.Linear(3, 4), PrivacyEngine()
    >>> model, optimizer, loader = engine.make_private(
    ...     module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...     data_loader=DataLoader(TensorDataset(x, y), batch_size=8),
    ...     partition=Partition.by_column(range(40), unit="user"),
    ...     sampling_rate=0.5, noise_multiplier=2.0, max_grad_norm=1.0)
    >>> try:
    ...     for inputs, labels in loader:
    ...         nn.functional.cross_entropy(model(inputs), labels).backward()
    ...         optimizer.step()
    ... except NonFiniteGradientError as error:
    ...     print(str(error).partition("; ")[2].partition(". ")[0])
    the logical step was dropped before anything was released
    >>> engine.ledger.steps
    0
    """


class BucketOptimizer(DPOptimizer):
    """Clips each bucket's mean gradient, sums, adds noise once per logical step, divides by qK ([Z20] Alg. 2).

    The user's unchanged loop calls ``step()`` once per physical batch; only the call that ends a logical step changes
    the parameters. :attr:`released` is True after such a call. Hooks registered with
    ``optimizer.original_optimizer.register_step_post_hook`` run once per released step, including empty draws. A hook
    of :meth:`attach_step_hook` runs before the step is charged and before anything of it is released.

    Args:
        optimizer: the user's optimizer; its use of the noisy gradient is post-processing.
        module: the wrapped module, which computes the gradients.
        plan: the run's plan.
        source: the random source of the noise.
        bill: charges one logical step; it is called before anything of the step is released.
        limit: the most records in a physical batch; it is halved if memory does not suffice for one.
        ranks: the processes whose partial sums form the noisy sum.
        sharding: the module's whole parameters, if those of ``optimizer`` are sharded.
        observer: an audit, which watches the noise and the releases, and adds its canaries.
    """

    noise_multiplier, max_grad_norm, expected_batch_size = Fixed(), Fixed(), Fixed()
    signal_skip_step = SKIPS_STEPS

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        module: BucketGradSampleModule,
        plan: Plan,
        source: NoiseSource,
        bill: Callable[[], None],
        limit: PhysicalLimit,
        ranks: Ranks = ALONE,
        sharding: Sharding | None = None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.gradient_noise,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_buckets,
        )
        self._module = module
        self.plan = plan
        self._source = source
        self._bill = bill
        self.ranks = ranks
        self.observer = observer
        self._batch: PhysicalBatch | None = None
        self._dry: DryRun | None = None
        self._updated = self.params
        self.sharding = sharding
        self._trained = self._updated if sharding is None else sharding.whole(self._updated)
        module.train_only(self._trained)
        module.on_error = self.notice
        self.limit = limit
        self._sum = RunningSum(self._trained) if sharding is None else ShardedSum(self._updated, ranks)
        self._groups = ParameterGroups.of(plan.clipping, optimizer, self._updated)
        self._device = self._trained[0].device
        self._unclipped = UnclippedCount.of(plan, device=self._device)
        names = {p: name for name, p in module.named_parameters()}
        named = [(names[p].removeprefix("_module."), p) for p in self._trained]
        updated = [(name, p) for (name, _), p in zip(named, self._updated, strict=True)]
        self.claim = Claim([*named, *updated])
        """The exclusive right to update the trained parameters, once it is taken."""
        if sharding is not None:
            # Before the user's hooks, which may look at the updated module.
            optimizer.register_step_post_hook(self._gather)
        self._fingerprint = Fingerprint(named)
        self._step_is_open = False
        self.taken: PhysicalBatch | None = None
        """The last processed physical batch of the current logical step; None if no step is partly accumulated."""
        self.steps_of_pass = 0
        """Completed logical steps of the pass, as of the last release; 0 at the start of a pass."""
        self._parts: Rows | None = None
        self.released = False
        """True when the last call of ``step()`` ended a logical step and changed the parameters."""
        self.released_steps = 0
        """Logical steps released so far, including empty draws."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Reject ``copy`` and ``pickle``: two copies could release the same sum, and charge it only once.

        torch would also restore Opacus's class incorrectly as a plain optimizer, which makes the class unusable.
        """
        del protocol
        raise TypeError(
            "a private optimizer cannot be copied or pickled, because it belongs to its engine and loader. Save a "
            "whole training with engine.save_checkpoint, and weights with copy.deepcopy(module) or module.state_dict()"
        )

    @property
    def accumulated_iterations(self) -> int:
        """Always 1: the divisor qK does not depend on the number of physical batches of a logical step."""
        return 1

    def begin(self, batch: PhysicalBatch, *, dry: DryRun | None = None) -> None:
        """Start a physical batch, before the loader yields its records.

        Args:
            batch: description of the records.
            dry: the dry runs, if this batch is one; nothing of it is clipped, summed or released.

        Raises:
            RuntimeError: the module was moved to another device.
        """
        if self._trained[0].device != self._device:
            raise RuntimeError(
                f"module was moved to {self._trained[0].device} after make_private, and noise and gradients are on "
                f"{self._device}; move it first, then build the optimizer and call make_private"
            )
        if dry is None and self.taken is None:
            # Earlier changes of the parameters are post-processing. From here on they must not change within the step.
            self._fingerprint.take()
        self._batch = batch
        self._dry = dry
        self.limit.begin()
        self.released = False
        self._module.begin(batch, dry=dry)

    def agree(self, dry: DryRun) -> None:
        """Allow physical batches of several buckets, which must follow the dry runs."""
        self._module.agree(dry)

    @property
    def shared(self) -> Shared | None:
        """The current physical batch, if it holds several buckets."""
        return self._module.shared

    @property
    def rehearsing(self) -> bool:
        """True in a dry run, of which nothing is released; see :class:`~dpmi.privacy.dry_run.DryRun`."""
        return self._dry is not None

    @property
    def batch_is_pending(self) -> bool:
        """True from the moment the loader yields a physical batch until ``step()`` has used it."""
        return self._batch is not None

    @property
    def is_between_steps(self) -> bool:
        """True when no logical step is partly accumulated, and no physical batch is pending."""
        return not self.batch_is_pending and self.taken is None

    def abandon(self) -> None:
        """Drop an unfinished logical step. Nothing of it was released, so it is not charged, and its draw is kept."""
        self._batch = self._parts = self._dry = self.taken = None
        self._step_is_open = False
        self.steps_of_pass = 0
        self._module.begin(None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the current physical batch; the running sum of the logical step is kept."""
        self._module.clear()

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Process one physical batch and, if it ends the logical step, release the noisy update.

        Raises:
            ValueError: a closure is given.
            RuntimeError: no batch of the private loader is pending, no gradient was computed for it, or another rank
                failed or is lost.
            NonFiniteGradientError: a bucket's gradient is not finite.
        """
        if closure is not None:
            raise ValueError(
                "closure is given, but a private step computes the loss of every record only once; call step() "
                "without a closure"
            )
        batch = self._batch
        if batch is None:
            raise RuntimeError(
                "optimizer.step() without a batch of the private loader: iterate over the loader that "
                "make_private returned and call step() once for each batch"
            )
        self._batch = None
        try:
            with self.ranks.telling():
                self._take(batch)
            self.limit.end(batch)
            if self._dry is None:
                self.taken = batch
            if batch.completes_step:
                self.release(batch)
        except BaseException as error:
            if is_out_of_memory(error):
                self.limit.halve(batch, error)
            self.abandon()
            raise

    def notice(self, error: BaseException | None = None) -> bool:
        """Take notice of an error of the loop: whether memory did not suffice for the pending physical batch.

        If so, that batch is dropped, and the limit of physical batches is halved. On a GPU no error is needed, because
        torch counts the allocations that failed.
        """
        batch = self._batch
        if batch is None:
            return False
        if error is not None and is_out_of_memory(error):
            self.limit.halve(batch, error)
        if not self.limit.ran_out(batch):
            return False
        self._module.drop("memory did not suffice for this physical batch, so its gradient is incomplete")
        self.ranks.tell_failure()
        return True

    def release(self, batch: PhysicalBatch) -> None:
        """Charge the step, then update with the noisy sum (only noise after an empty draw).

        Args:
            batch: the last physical batch of the step.
        """
        draw = batch.draw
        assert draw is not None  # the sampler's batches have one
        with self.ranks.telling():
            if draw.process != os.getpid():
                raise RuntimeError(
                    "this process was forked within a logical step, so draw and noise belong to its parent; nothing "
                    "was released here. Start a new loop over the loader after a fork"
                )
            self._open_step()
            self._add_canaries(draw)
            self.claim.check()
            self._check_trainable()
            if self.sharding is not None:
                self.sharding.check()
            self._sum.finish()
        self.ranks.begin_sum(self.released_steps + 1, draw=draw.digest, settings=self.param_groups)
        if self.step_hook is not None:
            self.step_hook(self)
        if not draw.charge.made:
            self._bill()
            draw.charge.made = True
        # A charged draw must not be used in another step: the next step draws anew, even if this one fails below.
        draw.spent = True
        self._sum.sum_over(self.ranks, *([] if self._unclipped is None else [self._unclipped.value]))
        for p, gradient in zip(self._updated, self._sum.gradients(), strict=True):
            p.grad = gradient.to(p.dtype)
        if self.observer is not None:
            self.observer.released(draw.buckets, [p.grad for p in self._updated if p.grad is not None])
        self._step_is_open = False
        self._module.end_step(empty=not batch.buckets)
        self.taken = None
        try:
            with self.claim.releasing(), nullcontext() if self.sharding is None else self.ranks.telling():
                if self.sharding is not None:
                    self.sharding.scatter()
                self.original_optimizer.step()
        finally:
            for p in self._updated:  # the next backward pass must not add to the released gradient
                p.grad = None
            if self.sharding is not None:
                self.sharding.end_update()
        if self._unclipped is not None:
            self.clip_to(self._unclipped.next_norm(self.max_grad_norm))
        self.released = True
        self.released_steps += 1
        self.steps_of_pass = batch.steps_of_pass

    def clip_to(self, max_grad_norm: float) -> None:
        """Take over the S of the next step: that of adaptive clipping, or of a checkpoint."""
        self.__dict__["max_grad_norm"] = max_grad_norm

    def _gather(self, *_: object) -> None:
        """Give the module the updated parameters of all ranks."""
        assert self.sharding is not None
        self.ranks.meet_after_update()
        with self.ranks.waiting("The step was charged, but its update did not reach this rank"):
            self.sharding.gather()

    def _open_step(self) -> None:
        """Start the sum of a logical step with Gaussian noise of standard deviation sigma * S / (q K)."""
        if not self._step_is_open:
            std = self.noise_multiplier * self.max_grad_norm / self.expected_batch_size
            # One rank adds the noise, so the sum over ranks contains it once; or each rank to its own shards.
            noisy = self.ranks.adds_noise or self.sharding is not None
            self._sum.start((lambda flat: self._source.fill_(flat, std)) if noisy else _clear)
            if self._unclipped is not None:
                self._unclipped.start(self._source.fill_ if self.ranks.adds_noise else None)
            if self.observer is not None:
                self.observer.noised(self._sum.gradients())
            self._step_is_open = True

    def _add_canaries(self, draw: Draw) -> None:
        """Clip and sum the drawn canaries of an audit, as one physical batch of one record each."""
        if self.observer is None:
            return
        real = self.plan.partition.num_buckets
        drawn = draw.buckets[draw.buckets >= real] - real
        if len(drawn):
            gradients = self.observer.gradients(drawn)
            norms = read(gradients.norms())
            factors = self._factors(norms, np.ones(len(drawn)), self.max_grad_norm) / self.expected_batch_size
            gradients.add_to(self._sum, torch.from_numpy(factors))

    def _take(self, batch: PhysicalBatch) -> None:
        """Clip and sum the complete buckets of this physical batch."""
        if self._dry is not None:
            self._module.end_dry_run()
            return
        doubts = self._doubts_of_moves(quick=not batch.completes_step)
        scale = self._module.scale
        gradients = self._module.collect(batch, doubts)
        if gradients is None:
            raise RuntimeError(
                f"no gradient for bucket {self._name(batch, 0)}: call backward() on a loss of the model's output, "
                "and call zero_grad() before backward() or after step(), not in between"
            )
        if batch.is_part:
            gradients, scale = self._joined(gradients, scale), 1.0
            if not batch.completes_bucket:
                read(torch.empty(0, dtype=torch.float64, device=self._device), doubts)
                return
            self._parts = None
        parts = self._groups.split(gradients)
        # The only wait for a GPU, with all that is in doubt. NumPy from here on: for few numbers torch takes longer.
        norms = read(torch.stack([part.norms().to(self._device) for part in parts]), doubts) * scale
        finite = np.isfinite(norms).all(axis=0)
        if not finite.all():
            worst = int(np.flatnonzero(~finite)[0])
            raise NonFiniteGradientError(
                f"the gradient of bucket {self._name(batch, worst)} has norm {norms[:, worst].max()}; the logical "
                "step was dropped before anything was released. Lower the learning rate, or look for invalid "
                "records in that bucket"
            )
        self._open_step()
        sizes = np.array(batch.bucket_records, dtype=np.float64)
        if self._unclipped is not None:
            self._unclipped.add(norms[0] / sizes <= self.max_grad_norm)
        for part, own, limit in zip(parts, norms, self._groups.norms(self.max_grad_norm), strict=True):
            factors = self._factors(own, sizes, limit) * (scale / self.expected_batch_size)
            part.add_to(self._sum, torch.from_numpy(factors))

    def _factors(
        self, norms: NDArray[np.float64], sizes: NDArray[np.float64], max_grad_norm: float
    ) -> NDArray[np.float64]:
        """Return the factors from sums over records to clipped means, (k,)."""
        return clipping_factors(norms, sizes, max_grad_norm, self.plan.clipping)

    def _joined(self, gradients: BucketGradients, scale: float) -> Rows:
        """Add the gradient of this part of a bucket to that of its earlier parts, as a sum over records."""
        assert isinstance(gradients, Rows)  # a batch of one bucket always has rows
        gradients.scale(scale)
        if self._parts is not None:
            gradients.add(self._parts)
        self._parts = gradients
        return gradients

    def _name(self, batch: PhysicalBatch, i: int) -> str:
        return f"{batch.buckets[i]} ({self.plan.partition.names[batch.buckets[i]]})"

    def _doubts_of_moves(self, *, quick: bool) -> list[Doubt]:
        """Return the doubts whether parameters changed within a logical step.

        Such a change may depend on the records of the step, without noise.
        """
        compared = self._fingerprint.compare(quick=quick)

        def error() -> RuntimeError:
            moved = compared.names()
            return RuntimeError(
                f"parameter {moved[0]!r} was changed within a logical step ({len(moved)} in total), but not by the "
                "private optimizer; nothing of the step was released. Change parameters only when optimizer.released "
                "is True, or restore their values before step(), as sharpness-aware minimisation does"
            )

        return [Doubt(differs, error) for differs in compared.differ]

    def _check_trainable(self) -> None:
        """Raise if a parameter was unfrozen after make_private; its gradient would not be clipped."""
        trained = {id(p) for p in self._trained}
        new = [
            name.removeprefix("_module.")
            for name, p in self._module.named_parameters()
            if p.requires_grad and p.numel() and id(p) not in trained
        ]
        if new or [id(p) for p in self.params] != [id(p) for p in self._updated]:
            raise RuntimeError(
                f"the set of trainable parameters changed after make_private{f' (new: {new[0]!r})' if new else ''}; "
                "first choose which parameters train, then call make_private"
            )


def _clear(flat: Tensor) -> None:
    flat.zero_()
