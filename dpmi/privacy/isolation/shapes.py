"""Rules of functions that rearrange entries: reshape, permute, expand, repeat, concatenate and split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from .labels import PUBLIC, Label, Public, Records
from .operands import (
    align,
    apart,
    argument,
    broadcast,
    dimension,
    dimensions,
    keywords,
    refuse,
    renumber,
    rule_of,
    variadic,
)
from .rules import After, Call, rule


def reshaped(call: Call, label: Records, old: Sequence[int], new: Sequence[int]) -> Records:
    """Return the label of the records in another shape of the same entries.

    In memory order, the entries are front x N x back, where front is the number of entries before the records. A
    dimension of the new shape holds the records if the product of the sizes before it divides front, and its own size
    is a multiple of N times the remaining factor of front.
    """
    front = prod(old[: label.dim]) * label.before
    got: Records | None = None
    passed = 1
    if call.records and all(new):
        for dim, size in enumerate(new):
            if front % passed:
                break
            before = front // passed
            if size % (before * call.records) == 0 and (got is None or before < got.before):
                # With a single record several dimensions qualify; the least `before` is right for any number.
                got = Records(dim, before, size // (before * call.records))
            passed *= size
    if got is None:
        refuse(call, f"from {tuple(old)} to {tuple(new)}, it merges entries of different records")
    return got


def regrouped(label: Public, old: Sequence[int], new: Sequence[int]) -> Public:
    """Return the label of public values in another shape: a group of dimensions is constant if all old ones were."""
    constant: set[int] = set()
    repeats: tuple[int, int] | None = None
    i = j = 0
    while i < len(old) or j < len(new):
        first, start = i, j
        p = old[i] if i < len(old) else 1
        q = new[j] if j < len(new) else 1
        i, j = i + 1, j + 1
        while p != q:
            if p < q and i < len(old):
                p, i = p * old[i], i + 1
            elif p > q and j < len(new):
                q, j = q * new[j], j + 1
            else:
                return PUBLIC
        group = [dim for dim in range(first, min(i, len(old))) if old[dim] != 1 or dim in label.following]
        # Two dimensions of draws do not merge to one: draws along one may be equal along the other.
        if all(label.is_constant(dim) for dim in group) and (label.same or len(group) < 2):
            constant.update(range(start, min(j, len(new))))
        elif (found := _repeated(label, old, group)) is not None:
            into = [dim for dim in range(start, min(j, len(new))) if new[dim] != 1] or [start]
            repeats = (into[0], found) if len(into) == 1 else None
    return Public(frozenset(constant), same=label.same, repeats=repeats)


def _repeated(label: Public, old: Sequence[int], group: Sequence[int]) -> int | None:
    """Return the number of values that repeat in a group of dimensions which becomes one; None if they do not."""
    if not label.same:
        return None
    first = next(at for at, dim in enumerate(group) if not label.is_constant(dim))
    rest = group[first:]
    if label.repeats is not None and rest == [label.repeats[0]]:
        return label.repeats[1]
    if not first or any(dim in label.following for dim in rest):
        return None
    return prod(old[dim] for dim in rest)


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def reshape(call: Call) -> Label | After:
    """Another shape; the label follows from the shape of the output."""
    keywords(call, ("shape", "size", "start_dim", "end_dim", "dim", "sizes", "other"))
    label, old = call.labels[0], call.tensors[0].shape
    if label is PUBLIC:
        return PUBLIC
    if any(isinstance(value, torch.dtype) for value in call.args):
        refuse(call, "reinterpreting memory as another type is not supported")
    if isinstance(label, Records):
        held = label
        return lambda out: reshaped(call, held, old, out.shape)
    known = label
    if known.everywhere:
        return known
    return lambda out: regrouped(known, old, out.shape)


@rule("squeeze", "squeeze_")
def squeeze(call: Call) -> Label:
    """Removes dimensions of size 1; this must not include the dimension of the records, of size 1 for one record."""
    keywords(call, ("dim",))
    shape, label = call.tensors[0].shape, call.labels[0]
    ndim = len(shape)
    value = variadic(call, "dim")
    dims = range(ndim) if value is None else dimensions(call, value, ndim)
    if isinstance(label, Records) and label.dim in dims and (value is not None or shape[label.dim] == 1):
        refuse(call, "the dimension of the records is removed where it has size 1")
    if isinstance(label, Public) and any(dim in dims for dim in label.following):
        refuse(call, "a dimension whose size follows the number of records is removed where it has size 1")
    return renumber(label, [dim for dim in range(ndim) if shape[dim] != 1 or dim not in dims])


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(call: Call) -> Label:
    """Adds a dimension of size 1."""
    keywords(call, ("dim",))
    ndim = call.tensors[0].dim()
    dim = dimension(call, argument(call, 1, "dim"), ndim + 1)
    return renumber(call.labels[0], [*range(dim), None, *range(dim, ndim)])


@rule("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint")
@rule_of(*(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH")))
def permute(call: Call) -> Label:
    """Dimensions in another order."""
    keywords(call, ("dims", "dim0", "dim1", "axis0", "axis1", "source", "destination"))
    if call.labels[0] is PUBLIC:
        return PUBLIC
    ndim = call.tensors[0].dim()
    name = call.name
    order = list(range(ndim))
    if name == "permute":
        order = list(dimensions(call, variadic(call, "dims"), ndim))
    elif name in ("transpose", "swapaxes", "swapdims"):
        a = dimension(call, argument(call, 1, "dim0", "axis0"), ndim)
        b = dimension(call, argument(call, 2, "dim1", "axis1"), ndim)
        order[a], order[b] = b, a
    elif name in ("movedim", "moveaxis"):
        source = dimensions(call, argument(call, 1, "source"), ndim)
        target = dict(zip(dimensions(call, argument(call, 2, "destination"), ndim), source, strict=True))
        others = (dim for dim in range(ndim) if dim not in source)
        order = [target[dim] if dim in target else next(others) for dim in range(ndim)]
    elif name == "t" or call.func in (Tensor.T.__get__, Tensor.H.__get__):  # type: ignore[attr-defined]
        order.reverse()
    else:
        order[-2:] = order[:-3:-1]
    return renumber(call.labels[0], order)


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Label | After:
    """Repeats along dimensions of size 1, and adds dimensions in front."""
    keywords(call, ("size", "sizes", "other"))
    label, old = call.labels[0], call.tensors[0].shape
    if isinstance(label, Records):
        held = label
        return lambda out: _expanded(call, held, old, out.shape)
    if label.same and label.everywhere:
        return label
    return partial(_expanded_public, label, old)


def _expanded(call: Call, label: Records, old: Sequence[int], new: Sequence[int]) -> Records:
    dim = label.dim + len(new) - len(old)
    if new[dim] != old[label.dim]:
        refuse(call, "a single record is repeated along the dimension of the records")
    return Records(dim, label.before, label.within)


def _expanded_public(label: Public, old: Sequence[int], out: Tensor) -> Public:
    off = out.dim() - len(old)
    spread = {
        i for i in range(out.dim()) if i < off or (old[i - off] == 1 and i - off not in label.following)
    }
    constant = spread | {i for i in range(off, out.dim()) if label.is_constant(i - off)}
    return Public(
        frozenset(constant),
        same=label.same or not (label.everywhere or label.constant),
        repeats=None if label.repeats is None else (label.repeats[0] + off, label.repeats[1]),
    )


@rule("repeat", "tile")
def repeat(call: Call) -> Label:
    """Repeats the tensor along each dimension: index i of R * N belongs to record i % N."""
    keywords(call, ("dims", "repeats", "sizes"))
    times: Any = variadic(call, "dims", "repeats", "sizes")
    times = (times,) if isinstance(times, int) else tuple(times)
    label, ndim = call.labels[0], call.tensors[0].dim()
    if not all(type(each) is int and each > 0 for each in times):
        refuse(call, f"the repeats are {times}, but must be positive integers")
    times = (1,) * (ndim - len(times)) + times
    off = len(times) - ndim
    if isinstance(label, Records):
        dim = label.dim + off
        return Records(dim, label.before * times[dim], label.within)
    assert isinstance(label, Public)
    if label.everywhere and label.same:
        return label
    if label is PUBLIC:
        return _repeated_public(call.tensors[0].shape, times)
    if any(times[dim + off] > 1 for dim in label.following):
        refuse(call, "it repeats public values whose size follows the number of records")
    kept = {dim + off for dim in range(ndim) if label.is_constant(dim)}
    return Public(frozenset(dim for dim in kept if times[dim] == 1 or label.same), same=label.same)


def _repeated_public(shape: Sequence[int], times: Sequence[int]) -> Public:
    sizes = (1,) * (len(times) - len(shape)) + tuple(shape)
    several = [dim for dim, each in enumerate(times) if each > 1 and sizes[dim] > 1]
    constant = frozenset(dim for dim, each in enumerate(times) if each > 1 and sizes[dim] == 1)
    repeats = (several[0], sizes[several[0]]) if len(several) == 1 else None
    return Public(constant, same=True, repeats=repeats) if constant or repeats else PUBLIC


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Label:
    """Repeats each entry along a dimension: index i of N * R belongs to record i // R."""
    keywords(call, ("repeats", "dim", "output_size"))
    label, ndim = call.labels[0], call.tensors[0].dim()
    times, value = argument(call, 1, "repeats"), argument(call, 2, "dim")
    if value is None and ndim == 1:
        value = 0
    if type(times) is not int or times < 1:
        if isinstance(label, Records) or any(
            isinstance(each, Records) or each.following for each in call.labels
        ):
            refuse(call, "the number of repeats must be a positive integer, not a tensor")
        return PUBLIC
    if isinstance(label, Records) and value is None:
        refuse(call, "without a dimension, it flattens the records: name the dimension")
    if isinstance(label, Records):
        dim = dimension(call, value, ndim)
        return Records(label.dim, label.before, label.within * times) if dim == label.dim else label
    return apart(call, label, ndim, range(ndim) if value is None else dimensions(call, value, ndim))


@rule("cat", "concat", "concatenate", "stack")
def cat(call: Call) -> Label:
    """Concatenates tensors along one dimension; along that of the records if all hold them: R batches of N records."""
    keywords(call, ("dim", "axis"))
    stacked = call.name == "stack"
    tensors, labels = call.tensors, call.labels
    if not stacked and any(tensor.shape == (0,) for tensor in tensors):
        # torch.cat skips them, as an empty cache of keys.
        both = [
            (t, own) for t, own in zip(tensors, labels, strict=True) if t.shape != (0,) or own is not PUBLIC
        ]
        tensors, labels = [t for t, _ in both], [own for _, own in both]
        if not tensors:
            return PUBLIC
    ndim = tensors[0].dim()
    if any(tensor.dim() != ndim for tensor in tensors):
        refuse(call, "the tensors have different numbers of dimensions")
    dim = dimension(call, argument(call, 1, "dim", "axis", default=0), ndim + stacked)
    got = align(call, tensors, labels, ndim)
    if got is None:
        known = cast("list[Public]", labels)
        if not stacked and any(dim in label.following for label in known):
            refuse(call, "it concatenates public tensors whose size follows the number of records")
        label = broadcast(tensors, known, ndim)
        if stacked:
            return (
                renumber(apart(call, label, ndim, ()), [*range(dim), None, *range(dim, ndim)])
                if label.same
                else PUBLIC
            )
        return apart(call, label, ndim, (dim,))
    if stacked:
        return Records(got.dim + (dim <= got.dim), got.before, got.within)
    if dim == got.dim:
        if any(isinstance(label, Public) for label in labels):
            refuse(call, "it concatenates public values with records along the dimension of the records")
        return Records(dim, got.before * len(tensors), got.within)
    return got


@rule_of(torch.split, Tensor.split, torch.split_with_sizes, Tensor.split_with_sizes)
@rule("tensor_split")
def split(call: Call) -> Label:
    """``split(x, sizes, dim=0)``."""
    keywords(
        call,
        ("split_size", "split_size_or_sections", "split_sizes", "indices_or_sections", "sections", "dim"),
    )
    return _taken(call, argument(call, 2, "dim", default=0), removed=False)


@rule("chunk")
def chunk(call: Call) -> Label:
    """``chunk(x, chunks, dim=0)``, also for R concatenated batches of N records."""
    keywords(call, ("chunks", "dim"))
    label, number = call.labels[0], argument(call, 1, "chunks")
    value = argument(call, 2, "dim", default=0)
    if isinstance(label, Records) and label.dim == dimension(call, value, call.tensors[0].dim()):
        if type(number) is not int or label.before % number:
            refuse(
                call,
                "it splits the dimension of the records: use a number of chunks that keeps batches whole",
            )
        return Records(label.dim, label.before // number, label.within)
    return _taken(call, value, removed=False)


@rule("narrow")
def narrow(call: Call) -> Label:
    """``narrow(x, dim, start, length)``."""
    keywords(call, ("dim", "start", "length"))
    if len(call.tensors) > 1:
        refuse(call, "the start must be a number, not a tensor")
    return _taken(call, argument(call, 1, "dim"), removed=False)


@rule("unbind")
def unbind(call: Call) -> Label:
    """``unbind(x, dim=0)``."""
    keywords(call, ("dim",))
    return _taken(call, argument(call, 1, "dim", default=0), removed=True)


@rule("select")
def select(call: Call) -> Label:
    """``select(x, dim, index)``."""
    keywords(call, ("dim", "index"))
    if len(call.tensors) > 1:
        refuse(call, "the index must be a number, not a tensor")
    return _taken(call, argument(call, 1, "dim"), removed=True)


def _taken(call: Call, value: Any, *, removed: bool) -> Label:
    """Return the label of parts along a dimension, which is then shorter, or removed."""
    ndim, label = call.tensors[0].dim(), call.labels[0]
    dim = dimension(call, value, ndim)
    label = apart(call, label, ndim, (dim,))
    return renumber(label, [i for i in range(ndim) if i != dim]) if removed else label
