"""Shared helpers of the rules: reading a call's arguments, aligning its operands, renumbering dimensions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from .labels import PUBLIC, Coupled, Label, Public, Records
from .rules import RULES, Call, Rule

_R = TypeVar("_R", bound=Rule)


def words(text: str) -> tuple[str, ...]:
    """Split a text into words, for long lists of names."""
    return tuple(text.split())


def rule_of(*functions: Callable[..., Any]) -> Callable[[_R], _R]:
    """Register a rule for these functions only; others of the same name have their arguments in another order."""

    def register(function: _R) -> _R:
        RULES.update(dict.fromkeys(functions, function))
        return function

    return register


def refuse(call: Call, why: str) -> NoReturn:
    """Raise :class:`Coupled` with the function's name and the reason."""
    raise Coupled(f"{call.name}: {why}")


def keywords(call: Call, allowed: Collection[str]) -> None:
    """Reject a call with a keyword argument that its rule does not know, or without a positional operand."""
    for name, value in call.kwargs.items():
        if value is not None and name not in allowed:
            refuse(call, f"the argument {name} (of type {type(value).__name__}) is not supported")
    if not call.args:
        refuse(call, "its operands must be passed by position")


def argument(call: Call, position: int, *names: str, default: Any = None) -> Any:
    """Return an argument that is passed by position, or by one of these names."""
    if len(call.args) > position:
        return call.args[position]
    for name in names:
        if name in call.kwargs:
            return call.kwargs[name]
    return default


def variadic(call: Call, *names: str) -> Any:
    """Return the arguments after the first operand: ``f(x, 1, 2)``, ``f(x, (1, 2))`` or by name."""
    rest = call.args[1:]
    if not rest:
        return argument(call, 1, *names)
    return rest[0] if len(rest) == 1 and not isinstance(rest[0], int) else rest


def dimension(call: Call, value: Any, ndim: int) -> int:
    """Return one dimension as a number >= 0."""
    if type(value) is not int:
        refuse(call, f"the dimension is {value!r}, but must be an integer")
    return value + ndim if value < 0 else value


def dimensions(call: Call, value: Any, ndim: int) -> tuple[int, ...]:
    """Return one or several dimensions as numbers >= 0."""
    if type(value) is int:
        return (value + ndim if value < 0 else value,)
    if not isinstance(value, (tuple, list)) or not value:
        refuse(call, f"the dimensions are {value!r}, so it runs over all records: name dimensions")
    return tuple(dimension(call, each, ndim) for each in value)


def public(call: Call, start: int, end: int | None = None) -> None:
    """Reject operands from `start` to `end` that hold records, or whose size follows the number of records."""
    for label in call.labels[start:end]:
        if label is PUBLIC:
            continue
        if isinstance(label, Records):
            refuse(call, "an operand that all records share (a weight, a table, an index) depends on records")
        if label.following:
            refuse(call, "the size of an operand that all records share follows the number of records")


def meet(call: Call, tensor: Tensor, label: Public, dim: int, place: Records) -> None:
    """Reject a public operand whose values differ along the records' dimension.

    Args:
        call: the call.
        tensor: the public operand.
        label: its label.
        dim: its dimension that is combined with the records' dimension; negative if there is none.
        place: the records.

    Raises:
        Coupled: the values differ, or another dimension follows the number N of records: a sum over it would depend
            on N.
    """
    if label.following and not label.following <= {dim}:
        refuse(
            call,
            "another dimension of a public operand than that of the records follows the number of records",
        )
    if dim < 0:
        return
    length, size = tensor.shape[dim], place.before * call.records * place.within
    if length == 1 and dim not in label.following:
        return
    if length == size and (label.is_constant(dim) or tensor.stride(dim) == 0 or repeats(label, dim, place)):
        return
    refuse(call, f"public values of shape {tuple(tensor.shape)} differ between records")


def repeats(label: Public, dim: int, place: Records) -> bool:
    """Return whether public values along a dimension are the same in the part of every record."""
    return label.repeats is not None and label.repeats[0] == dim and place.within % label.repeats[1] == 0


def align(call: Call, tensors: Sequence[Tensor], labels: Sequence[Label], ndim: int) -> Records | None:
    """Return the common label of all operands, broadcast to ``ndim`` dimensions; None if all operands are public."""
    got: Records | None = None
    for tensor, label in zip(tensors, labels, strict=True):
        if isinstance(label, Records):
            off = ndim - tensor.dim()
            here = label if off == 0 else Records(label.dim + off, label.before, label.within)
            if got is None:
                got = here
            elif got != here:
                refuse(call, f"records are at different places in its operands: {got} and {here}")
    if got is None:
        return None
    for tensor, label in zip(tensors, labels, strict=True):
        if isinstance(label, Public):
            dim = got.dim - ndim + tensor.dim()
            meet(call, tensor, label, dim, got)
    return got


def broadcast(tensors: Sequence[Tensor], labels: Iterable[Public], ndim: int) -> Public:
    """Return the label of an elementwise function of public operands."""
    labels = tuple(labels)
    if all(label is PUBLIC for label in labels):
        return PUBLIC
    shape = [
        max((t.shape[i - ndim + t.dim()] for t in tensors if i >= ndim - t.dim()), default=1)
        for i in range(ndim)
    ]
    constant, same, everywhere = set(range(ndim)), True, True
    repeating = {
        (label.repeats[0] + ndim - t.dim(), label.repeats[1])
        for t, label in zip(tensors, labels, strict=True)
        if label.repeats is not None
    }
    for tensor, label in zip(tensors, labels, strict=True):
        off = ndim - tensor.dim()
        spread = {
            i
            for i in range(ndim)
            if i < off or (tensor.shape[i - off] == 1 and i - off not in label.following)
        }
        level = spread | {i for i in range(off, ndim) if label.is_constant(i - off)}
        constant &= level
        repeating = {(i, p) for i, p in repeating if i in level or label.repeats == (i - off, p)}
        drawn = not label.same and (label.everywhere or bool(label.constant))
        same = same and not drawn
        # Draws that are broadcast are no longer independent of each other.
        everywhere = everywhere and (
            tensor.dim() == 0 or (label.everywhere and (label.same or not any(shape[i] != 1 for i in spread)))
        )
    if everywhere:
        return Public(everywhere=True, same=same)
    return Public(frozenset(constant), same=same, repeats=min(repeating) if repeating and same else None)


def apart(call: Call, label: Label, ndim: int, mixed: Collection[int]) -> Label:
    """Return the label after a function that mixes entries along these dimensions only."""
    if isinstance(label, Records):
        if label.dim in mixed:
            refuse(call, "it mixes along the dimension of the records")
        return label
    assert isinstance(label, Public)
    if label is PUBLIC:
        return label
    if any(dim in mixed for dim in label.following):
        refuse(call, "it mixes public values along a dimension whose size follows the number of records")
    kept = frozenset(range(ndim)) if label.everywhere else label.constant
    keeps = label.repeats is not None and label.repeats[0] not in mixed
    return Public(kept.difference(mixed), same=label.same, repeats=label.repeats if keeps else None)


def renumber(label: Label, order: Sequence[int | None]) -> Label:
    """Return the label of an output whose dimension i is input dimension ``order[i]``, or a new one of size 1 for None.

    ``order`` must contain the dimension of the records.
    """
    if isinstance(label, Records):
        return Records(order.index(label.dim), label.before, label.within)
    assert isinstance(label, Public)
    old = [dim for dim in order if dim is not None]
    if label is PUBLIC or (label.everywhere and (label.same or old == sorted(old))):
        return label
    repeats = None
    if label.repeats is not None and label.repeats[0] in order:
        repeats = (order.index(label.repeats[0]), label.repeats[1])
    return Public(
        frozenset(i for i, dim in enumerate(order) if dim is None or label.is_constant(dim)),
        same=label.same,
        repeats=repeats,
    )
