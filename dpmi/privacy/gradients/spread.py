"""Bucket gradients of public values that meet records entry by entry: positions, class tokens, scales, masks.

Such a value is a trained parameter or is computed from some. It is spread over the records, so that autograd gives one
gradient per record, which is summed over each bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from dpmi.privacy.isolation.elementwise import elementwise
from dpmi.privacy.isolation.labels import Coupled, Public, Records
from dpmi.privacy.isolation.operands import align, repeats
from dpmi.privacy.isolation.products import attention
from dpmi.privacy.isolation.rules import RULES, Call
from dpmi.privacy.isolation.shapes import cat

from .factors import AT_A_TIME
from .layer import at_least_float32
from .segments import Segments

#: The rules of functions whose operands meet entry by entry, aligned at the last dimension.
_ALIGNED = {elementwise, cat, attention}

_UNKNOWN = "a tensor that requires a gradient is no trained parameter of the module"


@dataclass(frozen=True)
class Spread:
    """A public operand of a call, repeated for every record.

    Attributes:
        values: without a gradient, repeated along the dimension of the records.
        source: what it repeats, with the graph that computes it from parameters.
        place: where its records are.
        period: size of ``source`` along the dimension of the records, of which ``values`` holds copies; 0 if it has no
            such dimension.
    """

    values: Tensor
    source: Tensor
    place: Records
    period: int

    def rows(self, g: Tensor, segments: Segments) -> Tensor:
        """Return the gradient of ``source``, one row per bucket, (k, *shape), float32 or better.

        Args:
            g: gradient of ``values`` with the records first, one or more rows each.
            segments: the buckets of these rows.
        """
        period = max(1, self.period)
        parts = segments if period == 1 else Segments([size // period for size in segments.sizes])
        rows = parts.sum(g.reshape(-1, period, *g.shape[1:]))
        if self.period:
            rows = rows.movedim(1, self.place.dim + 1 - (self.values.dim() - self.source.dim()))
        return rows.reshape(-1, *self.source.shape)


def spread(call: Call, operand: int) -> Spread | None:
    """Return a public operand of a call, repeated for every record; None if that is not possible.

    Args:
        call: a call with records, which its rule accepts.
        operand: the place of the operand among ``call.tensors``.
    """
    rule = RULES.get(call.func)
    if rule not in _ALIGNED:
        return None
    ndim = max(t.dim() for t in call.tensors)
    got = align(call, call.tensors, call.labels, ndim)
    label, t = call.labels[operand], call.tensors[operand]
    assert got is not None
    assert isinstance(label, Public)
    missing = ndim - t.dim()
    at, size = got.dim - missing, got.before * call.records * got.within
    shape = [1] * missing + list(t.shape)
    if at < 0:
        if rule is cat:
            return None
        shape[got.dim] = size
        return Spread(t.detach().expand(shape), t, got, period=0)
    shared = t.stride(at) == 0 or (label.is_constant(at) and label.same)
    if t.shape[at] == size and (size == 1 or shared):
        # All records see one memory, or values that the same calls made of the same values. So all of the gradient may
        # be that of the first.
        t = t.narrow(at, 0, 1)
    elif t.shape[at] == size and repeats(label, at, got):
        assert label.repeats is not None
        return Spread(t.detach(), t.narrow(at, 0, label.repeats[1]), got, period=label.repeats[1])
    elif t.shape[at] != 1 or rule is cat:
        return None
    shape[got.dim] = size
    return Spread(t.detach().expand(shape), t, got, period=1)


def sources(t: Tensor, names: Mapping[int, str]) -> dict[int, Tensor]:
    """Return the trained parameters that a tensor was computed from, by id.

    Raises:
        Coupled: a tensor is no trained parameter, or its gradient passes through code that is not torch's.
    """
    if id(t) in names:
        return {id(t): t}
    if t.grad_fn is None:
        raise Coupled(_UNKNOWN)
    found: dict[int, Tensor] = {}
    nodes: list[Node | None] = [t.grad_fn]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "_forward_cls", None) is not None:
            raise Coupled(f"a parameter passes through {node.name()}, a custom autograd function")
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if id(leaf) not in names:
                raise Coupled(_UNKNOWN)
            if leaf._backward_hooks:
                raise Coupled(f"parameter {names[id(leaf)]!r} has a hook, which would change its gradient")
            found[id(leaf)] = leaf
        nodes.extend(following for following, _ in node.next_functions)
    return found


def back_to(p: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    """Return the gradient of a parameter, for the gradient of a tensor that is computed from it.

    Args:
        p: the parameter.
        t: the tensor, or the parameter itself.
        rows: the tensor's gradient for each bucket, (k, *shape).

    Returns:
        (k, *shape of the parameter), float32 or better.
    """
    if t is p:
        return rows
    whole = t if t._base is None else t._base  # the gradient of a part has the size of the whole
    found = [
        torch.autograd.grad(t, p, some.to(t.dtype), retain_graph=True, is_grads_batched=True)[0]
        for some in torch.split(rows, max(1, AT_A_TIME // whole.numel()))
    ]
    return torch.cat(found).to(at_least_float32(found[0].dtype))
