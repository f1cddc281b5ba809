"""Gradients of several buckets from one ordinary forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from . import conv, embedding, linear, norm  # noqa: F401 (they register the functions that are intercepted)
from .layers import INTERCEPTED, Layer
from .segments import Segments

_STREAM = 'use grad_sample_mode="stream", which works with any module'


class Capture(TorchFunctionMode):
    """Computes one gradient row per bucket, never one per record, for the trained parameters of a module.

    Within ``with capture:``, which goes around the forward pass only, calls such as ``F.linear`` whose weight or
    bias is a trained parameter are made with that parameter detached, so that autograd does not compute the
    gradient over the whole batch, and their output is tapped: the backward pass computes the rows. Whatever else a
    trained parameter is used for is left to autograd, which then fills its ``grad``.

    Args:
        parameters: names and trained parameters, as of ``module.named_parameters()``.
        segments: the buckets of the physical batch.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], segments: Segments) -> None:
        super().__init__()
        self.segments = segments
        self.rows: dict[Tensor, Tensor] = {}
        """Gradient of each parameter that was reached, (k, *shape): summed over the records of each bucket."""
        self._names = {id(p): name for name, p in parameters}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make a call, tapped where it uses trained parameters."""
        kwargs = kwargs or {}
        parse = INTERCEPTED.get(func)
        if parse is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        x, layer = parse(*args, **kwargs)
        trained = [p for p in (layer.weight, layer.bias) if id(p) in self._names]
        if not trained:
            return func(*args, **kwargs)
        names = " and ".join(repr(self._names[id(p)]) for p in trained)
        if layer.unsupported is not None:
            raise RuntimeError(f"parameter {names}: {layer.unsupported}")
        self._check_records(names, layer.records(x), tuple(x.shape))
        detached = {id(p): p.detach() for p in trained if p is not None}
        out = func(
            *(detached.get(id(a), a) for a in args),
            **{key: detached.get(id(a), a) for key, a in kwargs.items()},
        )
        self._check_records(names, len(out), tuple(out.shape))
        # Without the anchor, the output of a first layer would have no node in the graph, and no gradient.
        anchor = torch.zeros((), requires_grad=True)
        return _Tap.apply(out, x, anchor, names, partial(self._take, layer))

    def _check_records(self, names: str, records: int, shape: tuple[int, ...]) -> None:
        if records != self.segments.records:
            raise RuntimeError(
                f"parameter {names} was used on a tensor of shape {shape}, whose first dimension is not the "
                f"{self.segments.records} records of the physical batch: gradients per bucket need the records "
                f"first (batch_first=True, no packed sequences). Otherwise {_STREAM}"
            )

    def _take(self, layer: Layer, x: Tensor, g: Tensor) -> None:
        if id(layer.weight) in self._names:
            self._add(layer.weight, layer.weight_rows(x, g, self.segments))
        if id(layer.bias) in self._names:
            self._add(layer.bias, layer.bias_rows(g, self.segments))

    def _add(self, p: Tensor | None, rows: Tensor) -> None:
        assert p is not None
        if p in self.rows:
            self.rows[p] += rows
        else:
            self.rows[p] = rows


class _Tap(torch.autograd.Function):
    """The identity, which hands the input and the output gradient of a layer to ``take``.

    The output counts as modified in place instead of copied: operations that follow may modify it in turn.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd knows no keywords)
        ctx: Any, out: Tensor, x: Tensor, anchor: Tensor, names: str, take: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.mark_dirty(out)
        ctx.save_for_backward(x)  # as autograd's own: guarded against modification, freed after use
        ctx.names = names
        ctx.take = take
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        try:
            (x,) = ctx.saved_tensors
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            raise RuntimeError(
                f"the input of the layer with parameter {ctx.names} was modified in place after the layer used it; "
                "use the operation that is not in place"
            ) from error
        with torch.autocast(g.device.type, enabled=False):
            ctx.take(x, g)
        return g, None, None, None, None
