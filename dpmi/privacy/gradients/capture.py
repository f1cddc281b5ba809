"""Gradients of several buckets from one ordinary forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from . import conv, embedding, linear, norm  # noqa: F401 (they register the functions that are intercepted)
from .implicit import Implicit
from .layers import INTERCEPTED, Layer
from .leaf import record_dimension, run_by_bucket
from .norms import row_norms
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
        leaves: modules to be run bucket by bucket, of :func:`~dpmi.privacy.gradients.leaf.other_leaves`.
        ghost: keep no rows that take more memory than what they are computed from; :attr:`squared_norms` and
            :meth:`weighted_sum` do without. No parameter may then be used more than once: the norm of a sum is
            not that of its terms.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        segments: Segments,
        *,
        leaves: Sequence[nn.Module] = (),
        ghost: bool = False,
    ) -> None:
        super().__init__()
        self.segments = segments
        self.rows: dict[Tensor, Tensor] = {}
        """Gradient of each parameter that was reached, (k, *shape): summed over the records of each bucket."""
        self._implicit: dict[Tensor, Implicit] = {}
        self._leaves = leaves
        self._own_forwards: list[Callable[..., Any] | None] = []
        self._ghost = ghost
        self._names = {id(p): name for name, p in parameters}
        self._used: set[int] = set()

    @property
    def is_empty(self) -> bool:
        """True until a backward pass has reached a trained parameter."""
        return not self.rows and not self._implicit

    def clear(self) -> None:
        """Forget the gradients of the backward passes so far."""
        self._used.difference_update(id(p) for p in (*self.rows, *self._implicit))
        self.rows.clear()
        self._implicit.clear()

    @property
    def squared_norms(self) -> Tensor:
        """Squared norm of each bucket's gradient, over all parameters, (k,) float64.

        At most a relative 2^-19 smaller than that of what :meth:`weighted_sum` adds for the bucket.
        """
        squares = [gradient.squared_norms for gradient in self._implicit.values()]
        if self.rows:
            squares.append(row_norms(list(self.rows.values())).square())
        if not squares:
            return torch.zeros(self.segments.num_buckets, dtype=torch.float64)
        return torch.stack(squares).sum(0)

    def weighted_sum(self, factors: Tensor) -> dict[Tensor, Tensor]:
        """Sum over buckets of factor times gradient, (*shape) for each parameter that was reached.

        Args:
            factors: (k,).
        """
        found = {p: gradient.weighted_sum(factors) for p, gradient in self._implicit.items()}
        for p, rows in self.rows.items():
            found[p] = torch.mv(rows.flatten(1).T, factors.to(rows)).view(p.shape)
        return found

    def __enter__(self) -> Capture:
        """Start to intercept calls."""
        for leaf in self._leaves:
            self._own_forwards.append(vars(leaf).get("forward"))
            leaf.forward = partial(self._call_leaf, leaf, leaf.forward)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Leave every function and module as it was."""
        super().__exit__(exc_type, exc_val, exc_tb)  # type: ignore[no-untyped-call]
        for leaf in reversed(self._leaves):
            own = self._own_forwards.pop()
            if own is None:
                del leaf.forward
            else:
                leaf.forward = own

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make a call, tapped where it uses trained parameters.

        Raises:
            RuntimeError: names the parameter whose gradient cannot be split by bucket, and says what to do.
        """
        kwargs = kwargs or {}
        parse = INTERCEPTED.get(func)
        if parse is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        x, layer = parse(*args, **kwargs)
        trained = [p for p in (layer.weight, layer.bias) if p is not None and id(p) in self._names]
        if not trained:
            return func(*args, **kwargs)
        names = " and ".join(repr(self._names[id(p)]) for p in trained)
        if layer.unsupported is not None:
            raise RuntimeError(f"parameter {names}: {layer.unsupported}")
        self._check_records(names, layer.records(x), x.shape)
        self._check_first_use(trained)
        detached = {id(p): p.detach() for p in trained}
        out = func(
            *(detached.get(id(a), a) for a in args),
            **{key: detached.get(id(a), a) for key, a in kwargs.items()},
        )
        self._check_records(names, len(out), out.shape)
        # Without the anchor, the output of a first layer would have no node in the graph, and no gradient.
        anchor = torch.zeros((), requires_grad=True)
        return _Tap.apply(out, x, anchor, names, partial(self._take, layer))

    def _call_leaf(
        self, leaf: nn.Module, forward: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        own = {name: p for name, p in leaf.named_parameters() if id(p) in self._names}
        if not torch.is_grad_enabled() or not own:
            return forward(*args, **kwargs)
        names = " and ".join(repr(self._names[id(p)]) for p in own.values())
        first = next(iter((*args, *kwargs.values())), None)
        shape = first.shape if isinstance(first, Tensor) else torch.Size()
        dim = record_dimension(leaf)
        self._check_records(names, shape[dim] if len(shape) > dim else 0, shape)
        self._check_first_use(own.values())
        try:
            return run_by_bucket(leaf, forward, own, self.segments, self._add, args=args, kwargs=kwargs)
        except TypeError as error:
            raise RuntimeError(f"parameter {names}: {error}; {_STREAM}") from error

    def _check_records(self, names: str, records: int, shape: torch.Size) -> None:
        if records != self.segments.records:
            raise RuntimeError(
                f"parameter {names} was used on a tensor of shape {tuple(shape)}, which does not hold the "
                f"{self.segments.records} records of the physical batch in its first dimension, as gradients per "
                f"bucket need them (batch_first=True, no packed sequences); {_STREAM}"
            )

    def _check_first_use(self, trained: Iterable[Tensor]) -> None:
        if not self._ghost:
            return
        for p in trained:
            if id(p) in self._used:
                raise RuntimeError(_used_twice(self._names[id(p)]))
            self._used.add(id(p))

    def _take(self, layer: Layer, x: Tensor, g: Tensor) -> None:
        if layer.weight is not None and id(layer.weight) in self._names:
            implicit = layer.implicit(x, g, self.segments) if self._ghost else None
            self._add(layer.weight, implicit or layer.weight_rows(x, g, self.segments))
        if layer.bias is not None and id(layer.bias) in self._names:
            self._add(layer.bias, layer.bias_rows(g, self.segments))

    def _add(self, p: Tensor, gradient: Tensor | Implicit) -> None:
        if self._ghost and (p in self.rows or p in self._implicit):  # a second backward pass
            raise RuntimeError(_used_twice(self._names[id(p)]))
        if not isinstance(gradient, Tensor):
            self._implicit[p] = gradient
        elif p in self.rows:
            self.rows[p] += gradient
        else:
            self.rows[p] = gradient


def _used_twice(name: str) -> str:
    return (
        f"parameter {name!r} is used more than once for one physical batch (tied weights, a module called twice, "
        'a recurrent layer), which grad_sample_mode="ghost" cannot take; use "hooks" or "stream"'
    )


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
        if torch.is_autocast_enabled(g.device.type):
            with torch.autocast(g.device.type, enabled=False):
                ctx.take(x.detach(), g)
        else:  # the context alone takes as long as a small layer
            ctx.take(x.detach(), g)
        return g, None, None, None, None
