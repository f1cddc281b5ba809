"""Opacus's DPOptimizer with buckets clipped instead of records, and one noisy update per logical step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer

from .grad_sample import BucketGradSampleModule
from .plan import PhysicalBatch, Plan

# Squares that are summed in float32 before float64 takes over. At worst, all roundings in one direction, the norm
# of 64 elements comes out 64 * 2^-25 too small; a float32 norm of a whole large tensor was seen 1.2e-4 too small.
_FLOAT32_RUN = 64
# Elements from which on the conversion to float64 costs more than two levels of summation.
_LARGE = 2**16
# That, and two roundings of the clipped gradient itself, stay below this: its true norm never exceeds the bound.
_SLACK = 1.0 - 2.0**-18


class NonFiniteGradientError(RuntimeError):
    """A bucket's gradient is NaN or infinite: the logical step was dropped, nothing was released."""


class BucketOptimizer(DPOptimizer):
    """Clips each bucket's mean gradient, sums, adds noise once per logical step, divides by qK ([Z20] Alg. 2).

    ``step()`` is called once per physical batch by the user's unchanged loop; only the call that ends a logical
    step changes the parameters. :attr:`released` tells which one did, and hooks registered with
    ``optimizer.original_optimizer.register_step_post_hook`` run once per released step, empty draws included.
    What :meth:`attach_step_hook` is given runs before anything of a step is released: the engine bills there.

    Args:
        optimizer: the user's optimizer; what it does with the noisy gradient is post-processing.
        module: the wrapped module, which computes the rows that are clipped here.
        plan: the run's plan.
        generator: source of the noise, on the parameters' device.
    """

    def __init__(
        self, optimizer: Optimizer, *, module: BucketGradSampleModule, plan: Plan, generator: torch.Generator
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_buckets,
            generator=generator,
        )
        self._module = module
        self._plan = plan
        self._batch: PhysicalBatch | None = None
        self._trained = self.params
        self._bucket_sum: list[Tensor] | None = None
        self.released = False
        """True when the last call of ``step()`` ended a logical step and changed the parameters."""
        self.released_steps = 0
        """Logical steps released so far, empty draws included."""

    @property
    def accumulated_iterations(self) -> int:
        """One: the divisor qK does not depend on how many physical batches a logical step took."""
        return 1

    def begin(self, batch: PhysicalBatch) -> None:
        """Take what the loader says about the records it is about to yield."""
        self._batch = batch
        self.released = False
        self._module.begin(batch)

    @property
    def batch_is_pending(self) -> bool:
        """True from the moment the loader yields a physical batch until ``step()`` has used it."""
        return self._batch is not None

    def abandon(self) -> None:
        """Drop an unfinished logical step: nothing of it was released, so nothing is billed."""
        self._batch = self._bucket_sum = None
        self._module.begin(None)
        for p in self._trained:
            p.grad = p.summed_grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of this physical batch; the running sum of the logical step stays."""
        for p in self._trained:
            p.grad = p.grad_sample = None

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take in one physical batch and, if it ends the logical step, release the noisy update.

        Raises:
            RuntimeError: no batch of the private loader is pending, or no gradient was computed for it.
            NonFiniteGradientError: the bucket's gradient is not finite.
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
            self._module.check_buffers()
            self._take(batch)
            if batch.completes_step:
                self.release()
        except BaseException:
            self.abandon()
            raise

    def release(self) -> None:
        """Bill the step, then add noise to what has been summed (nothing, after an empty draw) and update."""
        for p in self._trained:
            if p.summed_grad is None:
                p.summed_grad = torch.zeros_like(p, memory_format=torch.preserve_format)
        self._check_trainable()
        if self.step_hook is not None:
            self.step_hook(self)
        self.add_noise()
        self.scale_grad()
        self.original_optimizer.step()
        for p in self._trained:  # the next backward pass must not add to what was released
            p.grad = None
        self.released = True
        self.released_steps += 1

    def add_noise(self) -> None:
        """Gaussian noise of standard deviation sigma * S, in place: no second copy of the gradient."""
        std = self.noise_multiplier * self.max_grad_norm
        for p in self._trained:
            if std > 0:
                noise = torch.empty_like(p.summed_grad).normal_(0.0, std, generator=self.generator)
                p.summed_grad += noise
            p.grad, p.summed_grad = p.summed_grad, None

    def _take(self, batch: PhysicalBatch) -> None:
        """Add this physical batch to its bucket and, when the bucket is complete, clip and sum it."""
        if all(p.grad_sample is None for p in self._trained):
            raise RuntimeError(
                f"no gradient of bucket {self._name(batch)}: call backward() on a loss of the model's output, and "
                "zero_grad() before it or after step(), not in between"
            )
        rows = []
        for p in self._trained:  # a parameter that the loss did not reach has gradient zero
            rows.append(torch.zeros_like(p) if p.grad_sample is None else p.grad_sample[0])
            p.grad_sample = None
        if self._bucket_sum is not None:
            torch._foreach_add_(self._bucket_sum, rows)
            rows = self._bucket_sum
        if not batch.completes_bucket:
            self._bucket_sum = rows
            return
        self._bucket_sum = None
        norm = float(_norm(rows))
        if not math.isfinite(norm):
            raise NonFiniteGradientError(
                f"the gradient of bucket {self._name(batch)} has norm {norm}; the logical step was dropped before "
                "anything was released. Lower the learning rate, or look for invalid records in that bucket"
            )
        longest = self.max_grad_norm * _SLACK
        factor = min(1.0 / batch.bucket_records, longest / norm if norm > 0 else float("inf"))
        if self._trained[0].summed_grad is None:
            torch._foreach_mul_(rows, factor)
            for p, row in zip(self._trained, rows, strict=True):
                p.summed_grad = row
        else:
            torch._foreach_add_([p.summed_grad for p in self._trained], rows, alpha=factor)

    def _name(self, batch: PhysicalBatch) -> str:
        return f"{batch.bucket} ({self._plan.partition.names[batch.bucket]})"

    def _check_trainable(self) -> None:
        """A parameter unfrozen after make_private would be updated with a gradient that nobody clipped."""
        if [id(p) for p in self.params] != [id(p) for p in self._trained]:
            raise RuntimeError(
                "the set of trainable parameters changed after make_private; choose what trains first, then call "
                "make_private"
            )


def _norm(rows: list[Tensor]) -> Tensor:
    """Euclidean norm of all rows together, float64."""
    small = [row for row in rows if row.numel() < _LARGE]
    norms = [_norm_in_runs(row.flatten()) for row in rows if row.numel() >= _LARGE]
    if small:  # of an empty list there is no norm
        norms += torch._foreach_norm(small, dtype=torch.float64)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _norm_in_runs(flat: Tensor) -> Tensor:
    """In float32 over short runs and in float64 over their norms: as fast as float32 alone."""
    whole = flat.numel() // _FLOAT32_RUN * _FLOAT32_RUN
    runs = torch.linalg.vector_norm(flat[:whole].view(-1, _FLOAT32_RUN), dim=1)
    norm: Tensor = torch.linalg.vector_norm(torch.cat([runs, flat[whole:]]), dtype=torch.float64)
    return norm
