"""Nested outputs and targets: splitting them into tensors, and rebuilding them for every bucket."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from operator import itemgetter
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from .gradients.segments import Segments

RowsPerRecord = Callable[[Tensor], "int | None"]
"""Returns the number of consecutive rows of dimension 0 per record in a tensor; None if the tensor holds no records."""

_NUMBERS_AND_TEXT = (bool, int, float, complex, str, bytes, np.generic, Enum)
_CONSTANT = (
    *_NUMBERS_AND_TEXT,
    type(None),
    torch.Size,
    torch.device,
    torch.dtype,
    torch.layout,
    nn.Module,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    partial,
    type,
)

_Build = Callable[[Sequence[Tensor]], Any]


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and keyword arguments of one call."""


def split(
    args: Sequence[Any], kwargs: Mapping[str, Any], segments: Segments, rows_per_record: RowsPerRecord
) -> list[Arguments]:
    """Split the arguments of a call by bucket: tensors that hold records are split, everything else is unchanged.

    Args:
        args: positional arguments: tensors, or lists, tuples, dicts, dataclasses and similar structures of them.
        kwargs: keyword arguments.
        segments: the k buckets.
        rows_per_record: called once for every tensor.

    Returns:
        k pairs of positional and keyword arguments.

    Raises:
        TypeError: an argument cannot be rebuilt for one bucket; the message names its place and type.
        ValueError: the number of rows of a tensor does not match its records.
    """

    def cut(tensor: Tensor, rows: int) -> Sequence[Tensor]:
        return torch.split(tensor, [rows * size for size in segments.sizes])

    return _rebuilt(
        args,
        kwargs,
        cut,
        parts=segments.num_buckets,
        records=segments.records,
        rows_per_record=rows_per_record,
    )


def copies_of_one(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    counts: Sequence[int],
    *,
    records: int,
    rows_per_record: RowsPerRecord,
) -> list[Arguments]:
    """Return the arguments of a call on copies of the first record, for each number of copies, without autograd graph.

    Args:
        args: positional arguments, as for :func:`split`.
        kwargs: keyword arguments.
        counts: numbers of copies.
        records: number of records that the arguments hold.
        rows_per_record: called once for every tensor.

    Raises:
        TypeError, ValueError: as for :func:`split`.
    """

    def repeat(tensor: Tensor, rows: int) -> Sequence[Tensor]:
        first = tensor.detach()[:rows]
        return [
            first.repeat(count, *[1] * (first.dim() - 1)).requires_grad_(tensor.requires_grad)
            for count in counts
        ]

    return _rebuilt(args, kwargs, repeat, parts=len(counts), records=records, rows_per_record=rows_per_record)


def constants(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, object]:
    """Return everything in the arguments of a call that is not a tensor, by place.

    The criterion of every bucket gets the same values. A value computed from a batch (such as ``len(x)``) would couple
    the buckets of that batch, so these values must be equal in every batch.

    Raises:
        TypeError: as for :func:`split`.
    """
    taken = _Taken()
    for i, value in enumerate(args):
        taken.take(value, f"argument {i}")
    for name, value in kwargs.items():
        taken.take(value, f"argument {name!r}")
    return taken.constants


def _rebuilt(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    cut: Callable[[Tensor, int], Sequence[Tensor]],
    *,
    parts: int,
    records: int,
    rows_per_record: RowsPerRecord,
) -> list[Arguments]:
    taken = _Taken()
    positional = [taken.take(value, f"argument {i}") for i, value in enumerate(args)]
    named = {name: taken.take(value, f"argument {name!r}") for name, value in kwargs.items()}
    cuts: list[Sequence[Tensor]] = []
    for tensor, where in zip(taken.tensors, taken.places, strict=True):
        rows = rows_per_record(tensor)
        if rows is None:
            cuts.append([tensor] * parts)
            continue
        if tensor.dim() == 0 or rows < 1 or len(tensor) != rows * records:
            raise ValueError(
                f"{where} of the criterion has shape {tuple(tensor.shape)}, which does not hold {records} records "
                f"with {rows} rows each in dimension 0; pass tensors whose first dimension holds the records of the "
                "batch"
            )
        cuts.append(cut(tensor, rows))
    found: list[Arguments] = []
    for part in range(parts):
        own = [tensors[part] for tensors in cuts]
        found.append(
            (tuple(build(own) for build in positional), {k: build(own) for k, build in named.items()})
        )
    return found


class _Taken:
    """The tensors and constants of a structure, in the order of traversal."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.places: list[str] = []
        self.constants: dict[str, object] = {}
        self._index: dict[int, int] = {}

    def take(self, value: Any, where: str) -> _Build:
        """Decompose ``value``; return a function that rebuilds it from other tensors."""
        if isinstance(value, Tensor):
            if id(value) not in self._index:  # a model output may hold a tensor as attribute and as item
                self._index[id(value)] = len(self.tensors)
                self.tensors.append(value)
                self.places.append(where)
            return itemgetter(self._index[id(value)])
        if isinstance(value, _CONSTANT):
            self.constants[where] = value
            return lambda _: value
        keys, children, rebuild = _open(value, where)
        in_sequence = isinstance(value, (list, tuple, deque)) and not _pytree.is_namedtuple_instance(value)
        for child in children:
            # These look like one value per record, but their record is unknown.
            if in_sequence and isinstance(child, _NUMBERS_AND_TEXT):
                raise TypeError(
                    f"{where} of the criterion is a {type(value).__name__} that holds {child!r}, whose bucket is "
                    "unknown; pass a tensor with the records in its first dimension, or pass constants to the "
                    "criterion's constructor"
                )
        builds = [self.take(child, f"{where}[{key!r}]") for key, child in zip(keys, children, strict=True)]
        return lambda tensors: rebuild([build(tensors) for build in builds])


def _open(value: Any, where: str) -> tuple[Sequence[Any], Sequence[Any], Callable[[list[Any]], Any]]:
    """Return keys, children, and a function that rebuilds the structure from other children."""
    node = _pytree.SUPPORTED_NODES.get(_pytree._get_node_type(value))
    if node is not None:
        children, context = node.flatten_fn(value)
        if _pytree.is_namedtuple_instance(value):
            keys: Sequence[Any] = value._fields
        else:
            keys = list(value) if isinstance(value, Mapping) else range(len(children))
        return keys, children, lambda new: node.unflatten_fn(new, context)
    if (dataclasses.is_dataclass(value) and not isinstance(value, type)) or isinstance(
        value, (dict, UserDict, SimpleNamespace)
    ):
        return _open_object(value, where)
    raise TypeError(
        f"{where} of the criterion is a {type(value).__name__}, which cannot be rebuilt for one bucket; "
        "pass the tensors themselves, or a tuple, dict or dataclass of them"
    )


def _open_object(value: Any, where: str) -> tuple[list[Any], list[Any], Callable[[list[Any]], Any]]:
    # All attributes, not only the fields: values derived by __post_init__ or a cached property also hold records.
    attributes = dict(getattr(value, "__dict__", {}))
    slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
    items = dict(dict.items(value)) if isinstance(value, dict) else {}

    def rebuild(children: list[Any]) -> Any:
        made: Any = None
        with suppress(Exception):
            made = copy.copy(value)
        if made is value or type(made) is not type(value):
            raise TypeError(
                f"{where} of the criterion is a {type(value).__name__}, which copy.copy cannot copy, so it cannot be "
                "rebuilt for one bucket; pass the tensors themselves, or a tuple or dict of them"
            )
        # Bypasses the class's own setters: it may be frozen, check its size, or set attributes when items are set.
        remaining = iter(children)
        if attributes:
            made.__dict__.update(zip(attributes, remaining, strict=False))
        for name in slots:
            object.__setattr__(made, name, next(remaining))
        for key in items:
            dict.__setitem__(made, key, next(remaining))
        return made

    return [*attributes, *slots, *items], [*attributes.values(), *slots.values(), *items.values()], rebuild


def _slots(cls: type) -> list[str]:
    found: list[str] = []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            found.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in found if name not in {"__dict__", "__weakref__"}]


def map_tensors(function: Callable[[Tensor], Any], value: Any, *, whole: bool = False) -> Any:
    """Return the same structure with ``function`` applied to every tensor in it.

    Args:
        function: called with every tensor.
        value: a tensor, or nested lists, tuples, dicts, dataclasses and the like; other values are unchanged.
        whole: raise an error for values that cannot be traversed, because they may contain tensors.

    Raises:
        TypeError: a value cannot be traversed, if ``whole``; the message names its type.
    """
    kind = type(value)
    if isinstance(value, Tensor):
        return function(value)
    if kind is tuple or kind is list:
        return kind([map_tensors(function, v, whole=whole) for v in value])
    if kind is dict:
        return {k: map_tensors(function, v, whole=whole) for k, v in value.items()}
    if isinstance(value, _CONSTANT) or kind is slice:
        return value
    try:
        _, children, rebuild = _open(value, "an output")
    except TypeError as error:
        if whole:
            raise TypeError(
                f"a {kind.__name__} cannot be split by record; return tensors, or a tuple, dict or dataclass of them"
            ) from error
        return value
    return rebuild([map_tensors(function, child, whole=whole) for child in children])


def tensors_in(value: Any) -> list[Tensor]:
    """Return every tensor in a structure, in order, with repetitions."""
    found: list[Tensor] = []
    _gather(value, found)
    return found


def _gather(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
        return
    kind = type(value)
    children: Iterable[Any] = ()
    if kind is tuple or kind is list:
        children = value
    elif kind is dict:
        children = value.values()
    elif not isinstance(value, _CONSTANT) and kind is not slice:
        with suppress(TypeError):  # values that cannot be traversed are skipped
            children = _open(value, "a value")[1]
    for child in children:
        _gather(child, found)
