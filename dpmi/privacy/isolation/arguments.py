"""The arguments of a function call: its tensors, and its other values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .labels import Coupled

# Types of arguments besides tensors. They are compared between passes, so the value must define them completely.
_VALUES = (
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    type(None),
    type(Ellipsis),
    type,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


def operands(args: Iterable[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return every tensor among the arguments, including those inside lists, tuples and slices, in order."""
    found: list[Tensor] = []
    for a in args:
        if isinstance(a, Tensor):
            found.append(a)
        elif type(a) in _CONTAINERS:
            _inside(a, found)
    for a in kwargs.values():
        if isinstance(a, Tensor):
            found.append(a)
        elif type(a) in _CONTAINERS:
            _inside(a, found)
    return found


_CONTAINERS = frozenset({list, tuple, slice})


def _inside(value: Any, found: list[Tensor]) -> None:
    for a in (value.start, value.stop, value.step) if type(value) is slice else value:
        if isinstance(a, Tensor):
            found.append(a)
        elif type(a) in _CONTAINERS:
            _inside(a, found)


def plain(value: Any, reference: Callable[[Tensor], Any]) -> Any:
    """Return an argument in a form that can be compared with that of another pass.

    Args:
        value: the argument.
        reference: returns the identity of a tensor within the pass.

    Raises:
        Coupled: the argument is neither a tensor nor a plain value, so it could hold anything.
    """
    if isinstance(value, Tensor):
        return reference(value)
    kind = type(value)
    if kind in _PLAIN or isinstance(value, _VALUES):
        # 1, 1.0 and True are equal, but do not compute the same.
        return (kind, value) if kind in _NUMBERS else value
    if kind is slice:
        return (slice, *(plain(v, reference) for v in (value.start, value.stop, value.step)))
    if isinstance(value, list | tuple):
        return tuple([plain(v, reference) for v in value])
    if isinstance(value, torch.Generator):
        return torch.Generator
    raise Coupled(
        f"an argument of type {kind.__name__} is neither a tensor nor a plain value, so it may depend on the records"
    )


_NUMBERS = frozenset({float, bool, complex})
_PLAIN = frozenset({int, str, type(None)})


def writes_in_place(func: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call writes into its first argument, by its name or because of ``inplace=True``."""
    if func is Tensor.__setitem__ or kwargs.get("inplace"):
        return True
    if name.startswith("__"):
        return name.startswith("__i") and name not in _NOT_IN_PLACE
    return name.endswith("_") and name not in _NOT_IN_PLACE


_NOT_IN_PLACE = frozenset({"__invert__", "__index__", "__int__", "requires_grad_", "__init__"})
