"""Opacus's GradSampleModule with one gradient row per bucket instead of one per record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .gradients.bucket_gradients import BucketGradients, Ghost, Rows
from .gradients.capture import Capture
from .gradients.choice import Strategy
from .gradients.leaf import other_leaves
from .gradients.segments import Segments
from .plan import PhysicalBatch


class BucketGradSampleModule(GradSampleModule):
    """Computes the gradients of whole buckets, each summed over the bucket's records; never one per record.

    A physical batch with one bucket, or a part of one, needs nothing but the ordinary backward pass: what it
    leaves in ``p.grad`` is that bucket's gradient. That is strategy "stream", and any module will do. Where a
    physical batch holds several buckets, every use of a trained parameter by a layer is captured:

    - "hooks" builds one row per bucket, shape (k, *p.shape), which :meth:`collect` returns;
    - "ghost" keeps what the rows would be built from, and finds their norms without building them.

    Args:
        m: the module to wrap.
        strategy: "stream", "hooks" or "ghost".
        loss_reduction: "mean" or "sum", how the user's loss combines the records of a physical batch.
    """

    def __init__(self, m: nn.Module, *, strategy: Strategy = "hooks", loss_reduction: str = "mean") -> None:
        if loss_reduction not in ("mean", "sum"):
            raise ValueError(f"loss_reduction is {loss_reduction!r}; it must be 'mean' or 'sum'")
        self._batch: PhysicalBatch | None = None
        self._capture: Capture | None = None
        self._problem: str | None = None
        self._rehearsing = False
        self.low_precision = False
        """Whether the last forward pass computed in 16 bits."""
        self.work = 0.0
        """Multiply-adds per record of the forward pass that was rehearsed last."""
        self.strategy = strategy
        super().__init__(m, batch_first=True, loss_reduction=loss_reduction, strict=False)

    def add_hooks(self, **_: object) -> None:
        """None: Opacus has two for every layer; what is captured here is captured in :meth:`forward`."""
        self._trained = [(name, p) for name, p in self._module.named_parameters() if p.requires_grad]
        self._all = list(self._module.parameters())
        self._half = any(p.dtype.itemsize < 4 for p in self._all)
        self._leaves = other_leaves(self._module, self._trained)
        self._has_buffers = next(self._module.buffers(), None) is not None
        self.autograd_grad_sample_hooks: list[Any] = []
        self.enable_hooks()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets (copy.deepcopy, pickle): no batch is pending for it, so that it can only evaluate."""
        return {**self.__dict__, "_batch": None, "_capture": None, "_problem": None, "_rehearsing": False}

    def begin(self, batch: PhysicalBatch | None, *, rehearsal: bool = False) -> None:
        """Take what the loader says about the records it is about to yield.

        Args:
            batch: None when nothing is under way.
            rehearsal: nothing of it will be released; the module computes as in evaluation, without dropout.
        """
        self._batch = batch
        self._rehearsing = rehearsal
        for p in self._all:
            p.grad = None
        self._capture = None
        self._problem = None
        if batch is not None and len(batch.buckets) > 1:
            self._capture = Capture(
                self._trained,
                Segments(batch.sizes),
                leaves=self._leaves,
                ghost=self.strategy == "ghost",
            )
        if self._has_buffers:
            self._buffer_versions = [(b.data_ptr(), b._version) for b in self._module.buffers()]

    def train_only(self, parameters: Iterable[nn.Parameter]) -> None:
        """Choose whose gradients :meth:`collect` returns, and in which order."""
        names = {p: name for name, p in self._module.named_parameters()}
        self._trained = [(names[p], p) for p in parameters]
        self._leaves = other_leaves(self._module, self._trained)

    def clear(self) -> None:
        """Forget the gradients of this physical batch, which stays the one that is under way."""
        for p in self._all:
            p.grad = None
        if self._capture is not None:
            self._capture.clear()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's forward; records that did not come from the private loader are refused.

        Raises:
            RuntimeError: training on records that the private loader did not hand out.
        """
        if not (torch.is_grad_enabled() and self.hooks_enabled):
            return self._module(*args, **kwargs)
        self._check_records(args, kwargs)
        self.low_precision = self._half or torch.is_autocast_enabled(self._trained[0][1].device.type)
        if not self._rehearsing:
            with self._capture or nullcontext():
                return self._module(*args, **kwargs)
        with _evaluating(self._module), FlopCounterMode(display=False) as counter:
            out = self._rehearse(args, kwargs)
        assert self._batch is not None
        self.work = counter.get_total_flops() / 2 / self._batch.records
        return out

    def collect(self, batch: PhysicalBatch) -> BucketGradients | None:
        """The gradients of the buckets of this physical batch, and clear them; None if there are none.

        Raises:
            RuntimeError: a parameter is used in a way whose gradient cannot be split by bucket.
        """
        self._check_buffers()
        capture, self._capture = self._capture, None
        if self._problem is not None:
            raise RuntimeError(self._problem)
        if capture is None:
            return self._ordinary()
        for name, p in self._trained:
            if p.grad is not None:
                p.grad = None
                raise RuntimeError(
                    f"parameter {name!r} is used outside the layers that grad_sample_mode={self.strategy!r} knows, "
                    "so its gradient cannot be split by bucket; use grad_sample_mode='stream'"
                )
        if capture.is_empty:
            return None
        if self.strategy == "ghost":
            return Ghost(capture, [p for _, p in self._trained])
        return Rows([capture.rows.get(p) for _, p in self._trained])

    @property
    def scale(self) -> float:
        """By what a gradient has to be multiplied to be the sum over records; their number, of a mean loss."""
        if self.loss_reduction == "sum" or self._batch is None:
            return 1.0
        return float(self._batch.records)

    def _rehearse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            with self._capture or nullcontext():
                return self._module(*args, **kwargs)
        except RuntimeError as error:
            if self._capture is None:
                raise
            # The rehearsal goes on, so that it can be told what is wrong.
            self._problem, self._capture = str(error), None
            return self._module(*args, **kwargs)

    def _ordinary(self) -> Rows | None:
        rows: list[Tensor | None] = []
        for _, p in self._trained:  # a parameter that the loss did not reach has gradient zero
            grad, p.grad = p.grad, None
            if grad is not None and grad.is_sparse:
                grad = grad.to_dense()
            rows.append(None if grad is None else grad.unsqueeze(0))
        return None if all(row is None for row in rows) else Rows(rows)

    def _check_buffers(self) -> None:
        """Refuse a step whose forward pass changed a buffer: it would be released without noise."""
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


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Without what is random in training; cuDNN's RNNs can only be differentiated in training mode."""
    training = [m for m in module.modules() if m.training and not isinstance(m, nn.RNNBase)]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True
