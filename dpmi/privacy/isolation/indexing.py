"""Rules of reading and writing parts of a tensor by indices."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .labels import PUBLIC, Label, Public, Records
from .operands import (
    align,
    apart,
    argument,
    dimension,
    keywords,
    meet,
    public,
    refuse,
    renumber,
    rule_of,
)
from .rules import Call, rule

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)


class _Index(NamedTuple):
    """The effect of an index on the dimensions of a tensor.

    Args:
        order: for each dimension of the result, the dimension that it comes from, or None for a new one.
        picked: dimensions of which only some entries are selected.
        arrays: tensors and lists in the index.
    """

    order: list[int | None]
    picked: list[int]
    arrays: list[Any]


def _parse(call: Call, x: Tensor, index: Any) -> _Index:
    parts = index if type(index) is tuple else (index,)
    named = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in [part for part in parts if not isinstance(part, Tensor)]:
        parts = (*parts, Ellipsis)
    order: list[int | None] = []
    picked: list[int] = []
    arrays: list[Any] = []
    dim = 0
    for part in parts:
        if part is None:
            order.append(None)
        elif part is Ellipsis:
            order.extend(range(dim, dim + x.dim() - named))
            dim += x.dim() - named
        elif type(part) is slice:
            if not all(each is None or type(each) is int for each in (part.start, part.stop, part.step)):
                refuse(call, "the bounds of a slice must be numbers, not tensors")
            if not (
                part.start in (None, 0)
                and part.step in (None, 1)
                and (part.stop is None or part.stop >= x.shape[dim])
            ):
                picked.append(dim)
            order.append(dim)
            dim += 1
        elif type(part) is int:
            picked.append(dim)
            dim += 1
        elif isinstance(part, (Tensor, list)):
            if isinstance(part, Tensor) and part.dtype not in _INTEGERS:
                refuse(call, "a mask must not be an index: use torch.where or masked_fill")
            if isinstance(part, list) and not all(type(each) is int for each in part):
                refuse(call, "a list as an index must hold integers only")
            arrays.append(part)
            picked.append(dim)
            order.extend([dim] * (part.dim() if isinstance(part, Tensor) else 1))
            dim += 1
        else:
            refuse(call, f"an index of type {type(part).__name__} is not supported")
    return _Index(order, picked, arrays)


def _indexed(call: Call, x: Tensor, label: Label, index: Any) -> Label:
    """Return the label of ``x[index]``; the tensors in the index are public."""
    if label is PUBLIC and not isinstance(index, (tuple, Tensor, list)):
        return PUBLIC
    parsed = _parse(call, x, index)
    if isinstance(label, Records):
        if label.dim in parsed.picked:
            refuse(call, "the index selects some of the records")
        if len(parsed.arrays) > 1:
            refuse(call, "several tensors as an index are not supported")
        return renumber(label, parsed.order)
    assert isinstance(label, Public)
    if label is PUBLIC:
        return PUBLIC
    if any(dim in label.following and not label.is_constant(dim) for dim in parsed.picked):
        refuse(call, "the index selects from public values whose size follows the number of records")
    if parsed.arrays:
        return label if label.everywhere and label.same else PUBLIC
    kept = apart(
        call, Public(label.constant, everywhere=label.everywhere, same=label.same), x.dim(), parsed.picked
    )
    return label if label.everywhere and label.same else renumber(kept, parsed.order)


@rule_of(Tensor.__getitem__)
def getitem(call: Call) -> Label:
    """``x[index]``, with all records; or a lookup in a public table by an index that holds records."""
    x, index = call.args
    if len(call.tensors) > 1:
        held = [label for label in call.labels[1:] if isinstance(label, Records)]
        if held:
            table = call.labels[0]
            if isinstance(table, Records) or table.following or not isinstance(index, Tensor):
                refuse(call, "the index depends on records")
            _parse(call, x, index)
            return held[0]
        public(call, 1)
    return _indexed(call, x, call.labels[0], index)


@rule_of(Tensor.__setitem__)
def setitem(call: Call) -> Label:
    """``x[index] = value``: each record may be written only into its own part of records."""
    x, index, value = call.args
    label = call.labels[0]
    if not isinstance(label, Records):
        if any(isinstance(each, Records) for each in call.labels):
            refuse(call, "records are written into a tensor that holds no records")
        if any(cast(Public, each).following for each in call.labels):
            refuse(call, "the size of a public operand follows the number of records")
        return PUBLIC
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        if call.labels[1] != label or isinstance(value, Tensor):
            refuse(call, "a mask must not be an index: use torch.where or masked_fill")
        return label
    own = isinstance(value, Tensor)
    for each in call.labels[1 : len(call.labels) - own]:
        if isinstance(each, Records) or each.following:
            refuse(call, "the index depends on records")
    parsed = _parse(call, x, index)
    place = cast(Records, _indexed(call, x, label, index))
    if own:
        ndim, off = len(parsed.order), len(parsed.order) - value.dim()
        given = call.labels[-1]
        if off < 0:
            refuse(call, f"the value has {value.dim()} dimensions, but the indexed part has {ndim}")
        if isinstance(given, Public):
            meet(call, value, given, place.dim - off, place)
        elif Records(given.dim + off, given.before, given.within) != place:
            refuse(call, "records are written to the place of other records")
    return label


@rule("gather", "take_along_dim")
def gather(call: Call) -> Label:
    """Reading entries of each record at indices of the same record."""
    keywords(call, ("dim", "index", "indices", "sparse_grad"))
    if call.name == "gather":
        dim, (x, index) = argument(call, 1, "dim"), call.tensors
    else:
        dim, (x, index) = argument(call, 2, "dim"), call.tensors
    ndim = x.dim()
    dim = dimension(call, dim, ndim)
    if index.dim() != ndim:
        refuse(call, "the index has another number of dimensions than the tensor")
    return _alike(call, dim)


def _alike(call: Call, dim: int) -> Label:
    """Return the common label of operands with equal numbers of dimensions, in a function that mixes along `dim`."""
    ndim = call.tensors[0].dim()
    if any(tensor.dim() != ndim for tensor in call.tensors):
        refuse(call, "the operands have different numbers of dimensions")
    got = align(call, call.tensors, call.labels, ndim)
    if got is None:
        if any(cast(Public, label).following for label in call.labels):
            refuse(call, "the size of a public operand follows the number of records")
        return PUBLIC
    size = got.before * call.records * got.within
    if any(tensor.shape[got.dim] != size for tensor in call.tensors):
        # A shorter index is not repeated: it applies to the first records only.
        refuse(call, "the operands have different sizes along the dimension of the records")
    return apart(call, got, ndim, (dim,))


@rule("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_")
def scatter(call: Call) -> Label:
    """Writing entries of each record to indices of the same record."""
    keywords(call, ("dim", "index", "src", "value", "reduce", "include_self"))
    ndim = call.tensors[0].dim()
    label = _alike(call, dimension(call, argument(call, 1, "dim"), ndim))
    if call.name[-1] == "_" and isinstance(label, Records) and not isinstance(call.labels[0], Records):
        refuse(call, "records are written into a tensor that holds no records")
    return label


@rule("index_select")
def index_select(call: Call) -> Label:
    """``index_select(x, dim, index)``: public indices of another dimension, or records as indices of a public table."""
    keywords(call, ("dim", "index"))
    x = call.tensors[0]
    label, of_index = call.labels
    dim = dimension(call, argument(call, 1, "dim"), x.dim())
    if isinstance(of_index, Records):
        public(call, 0, 1)
        return Records(dim, of_index.before, of_index.within)
    public(call, 1)
    return apart(call, label, x.dim(), (dim,))
