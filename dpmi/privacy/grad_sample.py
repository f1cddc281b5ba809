"""Opacus's GradSampleModule with one gradient row per bucket instead of one per record."""

from __future__ import annotations

from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from .plan import PhysicalBatch


class BucketGradSampleModule(GradSampleModule):
    """Sums the gradient over a physical batch into ``p.grad_sample``, shape (1, *p.shape): one row per bucket.

    The loader yields one bucket (or a part of one) at a time, so a bucket's summed gradient is what an ordinary
    backward pass leaves behind: no layer needs a sampler of its own, any module works, and no row per record
    ever exists. ``p.grad`` is emptied as soon as autograd has filled it, so that no gradient which was not
    clipped and noised can reach an optimizer.

    Args:
        m: the module to wrap.
        loss_reduction: "mean" or "sum", how the user's loss combines the records of a physical batch.
    """

    def __init__(self, m: nn.Module, *, loss_reduction: str = "mean") -> None:
        self._batch: PhysicalBatch | None = None
        if loss_reduction not in ("mean", "sum"):
            raise ValueError(f"loss_reduction is {loss_reduction!r}; it must be 'mean' or 'sum'")
        super().__init__(m, batch_first=True, loss_reduction=loss_reduction, strict=False)

    def add_hooks(self, **_: object) -> None:
        """One hook per trainable parameter, where Opacus has two per layer."""
        self._captured = [p for p in self._module.parameters() if p.requires_grad]
        self._has_buffers = next(self._module.buffers(), None) is not None
        self.autograd_grad_sample_hooks = [
            p.register_post_accumulate_grad_hook(self._capture) for p in self._captured
        ]
        self.enable_hooks()

    def begin(self, batch: PhysicalBatch | None) -> None:
        """Take what the loader says about the records it is about to yield; None when nothing is under way."""
        self._batch = batch
        for p in self._captured:
            p.grad_sample = None
        if self._has_buffers:
            self._buffer_versions = [(b.data_ptr(), b._version) for b in self._module.buffers()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's forward; records that did not come from the private loader are refused.

        Raises:
            RuntimeError: training on records that the private loader did not hand out.
        """
        if torch.is_grad_enabled() and self.hooks_enabled:
            self._check_records(args, kwargs)
        return self._module(*args, **kwargs)

    def check_buffers(self) -> None:
        """Refuse a step whose forward pass changed a buffer: it would be released without noise.

        Raises:
            RuntimeError: names the buffer.
        """
        if not self._has_buffers:
            return
        for (name, buffer), before in zip(self._module.named_buffers(), self._buffer_versions, strict=True):
            if (buffer.data_ptr(), buffer._version) != before:
                raise RuntimeError(
                    f"the forward pass changed buffer {name!r}: statistics of the private records would be "
                    "released without noise. Use a layer without running statistics, such as GroupNorm"
                )

    def _check_records(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._batch is None:
            if self.training:
                raise RuntimeError(
                    "the private model was called in training mode on records that did not come from the private "
                    "loader; iterate over the loader that make_private returned, or call model.eval() or "
                    "torch.no_grad() to evaluate"
                )
            return
        first = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.dim() > 0), None)
        if first is not None and len(first) != self._batch.records:
            raise RuntimeError(
                f"the private model got {len(first)} records where the private loader yielded "
                f"{self._batch.records}; pass every batch whole, once, and nothing else, and evaluate under "
                "torch.no_grad()"
            )

    def _capture(self, p: Tensor) -> None:
        grad = p.grad
        if self._batch is None or not self.hooks_enabled or grad is None:
            return
        p.grad = None
        if grad.is_sparse:
            grad = grad.to_dense()
        if self.loss_reduction == "mean":
            grad = grad.mul_(self._batch.records)
        if p.grad_sample is None:  # type: ignore[attr-defined]
            p.grad_sample = grad.unsqueeze(0)  # type: ignore[attr-defined]
        else:  # a second backward pass over the same physical batch, as with two losses
            p.grad_sample += grad  # type: ignore[attr-defined]
