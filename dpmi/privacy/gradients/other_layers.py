"""Layers of unknown types: their calls are followed, or they run bucket by bucket on copies of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .layer import at_least_float32
from .segments import Segments

# The function calls of these layers are intercepted, see the functions registered with `intercepts`.
_INTERCEPTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def other_leaves(module: nn.Module, parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[nn.Module, bool]:
    """Return the modules without children that own trained parameters and are not intercepted layers.

    Args:
        module: the whole module.
        parameters: names and trained parameters.

    Returns:
        For each, whether it is not followed call by call. Recurrent layers are not, because their calls have no rules;
        for others the first dry run finds out.
    """
    trained = {id(p) for _, p in parameters}
    return {
        m: isinstance(m, nn.RNNBase)
        for m in module.modules()
        if next(m.children(), None) is None
        and any(id(p) in trained for p in m.parameters())
        and not any(isinstance(m, known) and computes_as(m, known) for known in _INTERCEPTED)
    }


def computes_as(m: nn.Module, known: type[nn.Module]) -> bool:
    """Return whether a module computes the same as its base class."""
    methods = ("forward", "_conv_forward")
    return "forward" not in vars(m) and all(
        getattr(type(m), name, None) is getattr(known, name, None) for name in methods
    )


def record_dimension(leaf: nn.Module) -> int:
    """Return the dimension of the records in a layer's input and output: 0, or 1 with ``batch_first=False``."""
    return 0 if getattr(leaf, "batch_first", True) else 1


def run_by_bucket(
    leaf: nn.Module,
    forward: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    segments: Segments,
    take: Callable[[Tensor, Tensor], None],
    *,
    of_records: Collection[int],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call a module bucket by bucket.

    Args:
        leaf: the module.
        forward: its forward method.
        parameters: its trained parameters.
        segments: the buckets.
        take: called in the backward pass with each parameter and its rows (k, *shape).
        of_records: ids of the tensors among the arguments that hold records, in the module's record dimension; they are
            split by bucket.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Returns:
        The outputs of all buckets, concatenated along the dimensions of :func:`output_dimensions`.

    Raises:
        TypeError: an output does not hold the records in that dimension.
    """
    dim = record_dimension(leaf)
    copies = {name: _copies(p, segments.num_buckets, take) for name, p in parameters.items()}
    call = _Call(leaf, forward)
    outs: list[list[Tensor]] = []
    for i, size in enumerate(segments.sizes):
        start = segments.bounds[i]

        def part(a: Any, start: int = start, size: int = size) -> Any:
            return a.narrow(dim, start, size) if id(a) in of_records else a

        own = {f"leaf.{name}": copy[i] for name, copy in copies.items()}
        out = functional_call(call, own, tree_map(part, args), tree_map(part, dict(kwargs)))
        tensors, structure = tree_flatten(out)
        dims = output_dimensions(leaf, len(tensors))
        if dims is None or any(
            not isinstance(t, Tensor) or t.dim() <= d or t.shape[d] != size
            for t, d in zip(tensors, dims, strict=True)
        ):
            raise TypeError(
                f"{type(leaf).__name__} must return a tensor with one entry per record in each bucket, but does not"
            )
        outs.append(tensors)
    assert dims is not None
    return tree_unflatten(
        [torch.cat(own, d) for own, d in zip(zip(*outs, strict=True), dims, strict=True)], structure
    )


def output_dimensions(leaf: nn.Module, outputs: int) -> list[int] | None:
    """Return the dimension of the records in each of a layer's outputs; None if it is not known.

    Recurrent layers also return hidden states, (layers, records, hidden) for any layout of their input.
    """
    first = record_dimension(leaf)
    if outputs > 1 and not isinstance(leaf, nn.RNNBase):
        return None
    return [first] + [1] * (outputs - 1)


def _copies(p: Tensor, count: int, take: Callable[[Tensor, Tensor], None]) -> tuple[Tensor, ...]:
    """Return the same parameter ``count`` times, as parts of one leaf tensor, whose gradient is the rows."""
    together = p.detach().expand(count, *p.shape).requires_grad_()

    def rows_are_there(leaf: Tensor) -> None:
        rows, leaf.grad = leaf.grad, None
        assert rows is not None
        take(p, rows.to(at_least_float32(rows.dtype)))

    together.register_post_accumulate_grad_hook(rows_are_there)  # type: ignore[no-untyped-call]
    return together.unbind(0)


class _Call(nn.Module):
    """A module with the given forward method; calling it does not run the hooks of the original module."""

    def __init__(self, leaf: nn.Module, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.leaf = leaf
        self._forward = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the given method."""
        return self._forward(*args, **kwargs)
