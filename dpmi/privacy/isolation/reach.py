"""Objects that code can reach, in which a pass could store information on its records for the next one."""

from __future__ import annotations

import array
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

from .generators import OF_A_KIND, Generators

# Progress bars and downloads, which the classes of transformers reach, have threads that count by themselves.
_LIBRARIES = sys.stdlib_module_names | {
    "dpmi",
    "huggingface_hub",
    "numpy",
    "opacus",
    "torch",
    "torchvision",
    "tqdm",
}
_NUMBERS = (bool, int, float, complex, str, bytes, np.generic)
_BYTES = (bytearray, array.array, np.ndarray)
# Hooks are the user's, for monitoring; the other attributes of nn.Module itself cannot hold a number.
_OWN = frozenset(vars(nn.Module())) - {"_modules"}


@dataclass(frozen=True)
class Reached:
    """The objects that the code of a module or function can reach, in their current state."""

    numbers: dict[str, object]
    """Numbers and texts, by place."""
    tensors: list[Tensor]
    generators: Generators


def reached(root: object) -> Reached:
    """Find the objects that the code of a module or function can reach.

    The search covers attributes and slots, containers, and the defaults, closures and named globals of functions. It
    does not cover libraries and hooks, nor objects that cannot be traversed, such as iterators.

    Args:
        root: the module, or the criterion.
    """
    numbers: dict[str, object] = {}
    tensors: list[Tensor] = []
    generators: list[object] = []
    seen: set[int] = set()
    kept: list[object] = []  # keeps objects alive, so that no id is reused during the search
    todo: list[tuple[str, Any]] = [("", root)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, _NUMBERS):
            numbers[name] = value
        elif isinstance(value, _BYTES):
            numbers[name] = zlib.crc32(np.ascontiguousarray(value).tobytes())
        elif id(value) not in seen:
            seen.add(id(value))
            kept.append(value)
            if isinstance(value, Tensor):
                tensors.append(value)
            elif isinstance(value, OF_A_KIND):
                generators.append(value)
            else:
                todo.extend((f"{name}.{key}" if name else f"{key}", inside) for key, inside in _inside(value))
    return Reached(numbers, tensors, Generators(generators))


def _inside(value: Any) -> Iterable[tuple[object, Any]]:
    found: Iterable[tuple[object, Any]] = ()
    if isinstance(value, dict):
        found = dict.items(value)  # a subclass may load what it does not hold yet
    elif isinstance(value, Mapping):
        found = value.items()
    elif isinstance(value, list | tuple | deque | set | frozenset):
        found = enumerate(value)
    elif isinstance(value, partial):
        found = [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    elif isinstance(value, MethodType):
        found = [("self", value.__self__), ("func", value.__func__)]
    elif isinstance(value, staticmethod | classmethod):
        found = [("func", value.__func__)]
    elif isinstance(value, property):
        found = [("get", value.fget)]
    elif isinstance(value, nn.Module):
        own = [(key, inside) for key, inside in vars(value).items() if key not in _OWN]
        found = [*own, ("class", type(value))]
    elif isinstance(value, FunctionType | type):
        if not _is_of_a_library(value):
            found = _of_function(value) if isinstance(value, FunctionType) else _of_class(value)
    elif isinstance(value, SimpleNamespace):
        found = _of_object(value)
    if not isinstance(value, nn.Module | FunctionType | type) and not _is_of_a_library(type(value)):
        found = [*found, *_of_object(value)]
    return list(found)


def _of_class(kind: type) -> Iterator[tuple[object, Any]]:
    yield from vars(kind).items()
    yield from enumerate(kind.__bases__)


def _of_object(value: Any) -> Iterator[tuple[object, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            # For a name with two leading underscores, Python mangles the slot's name; its descriptor is in the class.
            slot: Any = vars(kind).get(name) or vars(kind).get(f"_{kind.__name__.lstrip('_')}{name}")
            with suppress(AttributeError):  # not set yet
                yield name, slot.__get__(value, kind)
    yield "class", type(value)


def _of_function(function: FunctionType) -> Iterator[tuple[object, Any]]:
    yield "defaults", function.__defaults__
    yield "defaults", function.__kwdefaults__
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not filled yet
            yield name, cell.cell_contents
    names = set(_named_in(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if not isinstance(value, ModuleType):
            yield name, value
        elif not _is_of_a_library(value):
            yield from ((f"{name}.{key}", vars(value)[key]) for key in names & vars(value).keys())


def _named_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named_in(constant)


def _is_of_a_library(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(name, str) and name.partition(".")[0] in _LIBRARIES
