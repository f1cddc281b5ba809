"""Opacus's DPOptimizer with buckets clipped instead of records, and one noisy update per logical step."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from .batch import PhysicalBatch
from .distributed import ALONE, Ranks
from .dry_run import DryRun
from .exclusive import Claim
from .fingerprint import Fingerprint
from .grad_sample import BucketGradSampleModule
from .gradients.bucket_gradients import BucketGradients, Rows
from .gradients.row_norms import ROUNDING
from .gradients.running_sum import RunningSum
from .isolation.shared import Shared
from .noise import NoiseSource
from .plan import Plan


class NonFiniteGradientError(RuntimeError):
    """A bucket's gradient is NaN or infinite: the logical step was dropped, nothing was released."""


class BucketOptimizer(DPOptimizer):
    """Clips each bucket's mean gradient, sums, adds noise once per logical step, divides by qK ([Z20] Alg. 2).

    ``step()`` is called once per physical batch by the user's unchanged loop; only the call that ends a logical
    step changes the parameters. :attr:`released` tells which one did, and hooks registered with
    ``optimizer.original_optimizer.register_step_post_hook`` run once per released step, empty draws included.
    What :meth:`attach_step_hook` is given runs before a step is billed and anything of it is released.

    Args:
        optimizer: the user's optimizer; what it does with the noisy gradient is post-processing.
        module: the wrapped module, which computes the gradients that are clipped here.
        plan: the run's plan.
        source: of the noise.
        bill: charges one logical step; it is called before anything of the step is released.
        ranks: with which the noisy sum is added up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        module: BucketGradSampleModule,
        plan: Plan,
        source: NoiseSource,
        bill: Callable[[], None],
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_buckets,
        )
        self._module = module
        self._plan = plan
        self._source = source
        self._bill = bill
        self.ranks = ranks
        self._batch: PhysicalBatch | None = None
        self._dry: DryRun | None = None
        self._trained = self.params
        module.train_only(self._trained)
        self._sum = RunningSum(self._trained)
        names = {p: name for name, p in module.named_parameters()}
        named = [(names[p].removeprefix("_module."), p) for p in self._trained]
        self.claim = Claim(named)
        """To be the only optimizer that moves the trained parameters, once it is taken."""
        self._fingerprint = Fingerprint(named)
        self._step_is_open = False
        self.taken: PhysicalBatch | None = None
        """The last physical batch that was taken in of a logical step that is not released yet."""
        self.steps_of_pass = 0
        """Logical steps of the pass that are done, after the last released one; 0 where a new pass begins."""
        self._parts: Rows | None = None
        self.released = False
        """True when the last call of ``step()`` ended a logical step and changed the parameters."""
        self.released_steps = 0
        """Logical steps released so far, empty draws included."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse ``copy`` and ``pickle``: two of one optimizer would release one sum, and bill it once.

        Opacus's own would be restored by torch as an optimizer, which it is not quite: that leaves its class unusable.
        """
        del protocol
        raise TypeError(
            "a private optimizer cannot be copied or pickled: it is one with its engine and its loader. Keep a whole "
            "training with engine.save_checkpoint, and weights with copy.deepcopy(module) or module.state_dict()"
        )

    @property
    def accumulated_iterations(self) -> int:
        """One: the divisor qK does not depend on how many physical batches a logical step took."""
        return 1

    def begin(self, batch: PhysicalBatch, *, dry: DryRun | None = None) -> None:
        """Take what the loader says about the records it is about to yield.

        Args:
            batch: the buckets.
            dry: sees what the loop does with them; nothing is clipped, summed or released.
        """
        if dry is None and self.taken is None:
            # What moved the parameters before is post-processing; from here on, gradients are computed at them.
            self._fingerprint.take()
        self._batch = batch
        self._dry = dry
        self.released = False
        self._module.begin(batch, dry=dry)

    def agree(self, dry: DryRun) -> None:
        """Let physical batches hold several buckets, which are all like the dry runs."""
        self._module.agree(dry)

    @property
    def shared(self) -> Shared | None:
        """The physical batch that is under way, if it holds several buckets."""
        return self._module.shared

    @property
    def rehearsing(self) -> bool:
        """True in a dry run, of which nothing will be released: see :class:`~dpmi.privacy.dry_run.DryRun`."""
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
        """Drop an unfinished logical step: nothing of it was released, so nothing is billed, and its draw remains."""
        self._batch = self._parts = self._dry = self.taken = None
        self._step_is_open = False
        self.steps_of_pass = 0
        self._module.begin(None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of this physical batch; the running sum of the logical step stays."""
        self._module.clear()

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take in one physical batch and, if it ends the logical step, release the noisy update.

        Raises:
            RuntimeError: no batch of the private loader is pending, or no gradient was computed for it; or another
                rank failed, or is gone.
            NonFiniteGradientError: a bucket's gradient is not finite.
        """
        if closure is not None:
            raise ValueError("closure is given; a private step sees every record once and cannot re-evaluate")
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
            if self._dry is None:
                self.taken = batch
            if batch.completes_step:
                self.release(batch)
        except BaseException:
            self.abandon()
            raise

    def release(self, batch: PhysicalBatch) -> None:
        """Bill the step, then update with noise and what has been summed (nothing, after an empty draw).

        Args:
            batch: the last of the step.
        """
        draw = batch.draw
        assert draw is not None  # the sampler's batches have one
        with self.ranks.telling():
            if draw.process != os.getpid():
                raise RuntimeError(
                    "this process was forked within a logical step, whose draw and noise are its parent's; nothing was "
                    "released here. Begin a new loop over the loader after a fork"
                )
            self._open_step()
            self.claim.check()
            self._check_trainable()
        self.ranks.begin_sum(self.released_steps + 1, draw=draw.digest, settings=self.param_groups)
        if self.step_hook is not None:
            self.step_hook(self)
        self._bill()
        # Billed, so that its buckets must not be in another step: the next one draws anew, even if this one fails now.
        draw.spent = True
        self.ranks.sum_(self._sum.flat)
        for p, gradient in zip(self._trained, self._sum.gradients(), strict=True):
            p.grad = gradient.to(p.dtype)
        self._step_is_open = False
        self._module.end_step(empty=not batch.buckets)
        self.taken = None
        try:
            with self.claim.releasing():
                self.original_optimizer.step()
        finally:
            for p in self._trained:  # the next backward pass must not add to what was released
                p.grad = None
        self.released = True
        self.released_steps += 1
        self.steps_of_pass = batch.steps_of_pass

    def _open_step(self) -> None:
        """Begin the sum of a logical step with Gaussian noise of standard deviation sigma * S / (q K)."""
        if not self._step_is_open:
            std = self.noise_multiplier * self.max_grad_norm / self.expected_batch_size
            # Noise is in the sum once, whatever the number of ranks.
            self._sum.start((lambda flat: self._source.fill_(flat, std)) if self.ranks.adds_noise else _clear)
            self._step_is_open = True

    def _take(self, batch: PhysicalBatch) -> None:
        """Clip and sum the buckets of this physical batch, those of which nothing is missing."""
        if self._dry is not None:
            self._module.end_dry_run()
            return
        self._check_unmoved(quick=not batch.completes_step)
        scale = self._module.scale
        gradients = self._module.collect(batch)
        if gradients is None:
            raise RuntimeError(
                f"no gradient of bucket {self._name(batch, 0)}: call backward() on a loss of the model's output, "
                "and zero_grad() before it or after step(), not in between"
            )
        if batch.is_part:
            gradients, scale = self._joined(gradients, scale), 1.0
            if not batch.completes_bucket:
                return
            self._parts = None
        # Few numbers: from here, torch would take longer per call, and a GPU would be waited for again.
        norms = gradients.norms().cpu().numpy() * scale
        if not np.isfinite(norms).all():
            worst = int(np.flatnonzero(~np.isfinite(norms))[0])
            raise NonFiniteGradientError(
                f"the gradient of bucket {self._name(batch, worst)} has norm {norms[worst]}; the logical "
                "step was dropped before anything was released. Lower the learning rate, or look for invalid "
                "records in that bucket"
            )
        self._open_step()
        factors = self._factors(norms, batch) * (scale / self.expected_batch_size)
        gradients.add_to(self._sum, torch.from_numpy(factors))

    def _factors(self, norms: NDArray[np.float64], batch: PhysicalBatch) -> NDArray[np.float64]:
        """What turns sums over records into clipped means, (k,)."""
        longest = self.max_grad_norm * (1.0 - ROUNDING)
        sizes = np.array(batch.bucket_records, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore"):  # of a gradient of zero the second is infinite
            factors: NDArray[np.float64] = np.minimum(1.0 / sizes, longest / norms)
        return factors

    def _joined(self, gradients: BucketGradients, scale: float) -> Rows:
        """This part of a bucket and the parts before it, as a sum over records."""
        assert isinstance(gradients, Rows)  # one bucket alone always has a row
        gradients.scale(scale)
        if self._parts is not None:
            gradients.add(self._parts)
        self._parts = gradients
        return gradients

    def _name(self, batch: PhysicalBatch, i: int) -> str:
        return f"{batch.buckets[i]} ({self._plan.partition.names[batch.buckets[i]]})"

    def _check_unmoved(self, *, quick: bool) -> None:
        """What moves the parameters within a logical step has seen its records, and no noise is added to it."""
        if moved := self._fingerprint.changed(quick=quick):
            raise RuntimeError(
                f"parameter {moved[0]!r} was changed within a logical step ({len(moved)} in all), by something other "
                "than the private optimizer; nothing of the step was released. Change parameters where "
                "optimizer.released is True, or restore the same values before step(), as sharpness-aware minimisation "
                "does"
            )

    def _check_trainable(self) -> None:
        """A parameter unfrozen after make_private would be updated with a gradient that nobody clipped."""
        trained = {id(p) for p in self._trained}
        new = [
            name.removeprefix("_module.")
            for name, p in self._module.named_parameters()
            if p.requires_grad and p.numel() and id(p) not in trained
        ]
        if new or [id(p) for p in self.params] != [id(p) for p in self._trained]:
            raise RuntimeError(
                f"the set of trainable parameters changed after make_private{f' (new: {new[0]!r})' if new else ''}; "
                "choose what trains first, then call make_private"
            )


def _clear(flat: Tensor) -> None:
    flat.zero_()
