"""What a function call is made of: its tensors, and all that is not one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .labels import Coupled

# What an argument may be besides a tensor: it is compared between passes, so its value must say all of it.
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
    """Every tensor among the arguments, also inside lists, tuples and slices, in order."""
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
    """An argument as something that can be compared with that of another pass.

    Args:
        value: the argument.
        reference: says which tensor of the pass this is.

    Raises:
        Coupled: it is neither a tensor nor a plain value, so that it could carry anything.
    """
    if isinstance(value, Tensor):
        return reference(value)
    kind = type(value)
    if kind in _PLAIN or isinstance(value, _VALUES):
        # 1, 1.0 and True are equal, and do not compute the same.
        return (kind, value) if kind in _NUMBERS else value
    if kind is slice:
        return (slice, *(plain(v, reference) for v in (value.start, value.stop, value.step)))
    if isinstance(value, list | tuple):
        return tuple([plain(v, reference) for v in value])
    if isinstance(value, torch.Generator):
        return torch.Generator
    raise Coupled(
        f"an argument of type {kind.__name__} is no tensor of this pass, and may depend on its records"
    )


_NUMBERS = frozenset({float, bool, complex})
_PLAIN = frozenset({int, str, type(None)})


def writes_in_place(func: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call by its name, or with ``inplace=True``, writes into its first argument."""
    if func is Tensor.__setitem__ or kwargs.get("inplace"):
        return True
    if name.startswith("__"):
        return name.startswith("__i") and name not in _NOT_IN_PLACE
    return name.endswith("_") and name not in _NOT_IN_PLACE


_NOT_IN_PLACE = frozenset({"__invert__", "__index__", "__int__", "requires_grad_", "__init__"})
