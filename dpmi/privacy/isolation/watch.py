"""Detects whether a forward pass changed its module."""

from __future__ import annotations

import operator
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from .provenance import CarriedOver, changed, memory, version

_DEPTH = 3
"""Depth to which lists, dicts and objects among a module's attributes are searched."""

# Attributes of nn.Module itself; a loop may change hooks and modes.
_OWN = frozenset(vars(nn.Module())) - {"_parameters", "_buffers"}
_OF_CLASSES = frozenset({"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"})
_UNKNOWN = object()
_WRITES = "writes to "
_COMPARED = (int, float, complex, bool, str, bytes, frozenset, np.generic)


class Watch:
    """Stores the state of a module's parameters, buffers and attributes, and detects changes.

    Args:
        module: the user's module, or a criterion, which may be a function.
        trained: the parameters that the private optimizer updates.
    """

    def __init__(self, module: object, trained: Iterable[Tensor] = ()) -> None:
        self._module = module
        self._trained = {id(t) for t in trained}
        self._look()

    def _look(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self.buffers: frozenset[int] = frozenset()
        if isinstance(self._module, nn.Module):
            self._tensors = dict((*self._module.named_parameters(), *self._module.named_buffers()))
            self.buffers = frozenset(id(b) for b in self._module.buffers())
        self._kept = _Kept(self._module, {id(t) for t in self._tensors.values()})

    def tensors(self) -> dict[str, tuple[int, int]]:
        """Return address and version of every parameter and buffer, by name."""
        return {name: (t.data_ptr(), t._version) for name, t in self._tensors.items()}

    def attributes(self) -> dict[str, Any]:
        """Return all other state of the module, by name."""
        if not self._kept.is_as_it_was():
            self._look()
        return self._kept.attributes

    def storages(self) -> frozenset[int]:
        """Return the memory addresses of parameters, buffers and tensors among the attributes, as of the last check."""
        kept = (value for value in self._kept.attributes.values() if isinstance(value, Tensor))
        return frozenset(memory(t) for t in (*self._tensors.values(), *kept)) - {0}

    def check_tensors(
        self, before: dict[str, tuple[int, int]], *, but: Collection[Tensor] = (), trained: bool = True
    ) -> None:
        """Raise an error if a parameter or buffer changed since ``before``.

        Args:
            before: an earlier result of :meth:`tensors`.
            but: buffers that may have changed, because their new values depend on no record.
            trained: whether to check the trained parameters too.

        Raises:
            CarriedOver: a tensor changed; the message names it.
        """
        for name, t in self._tensors.items():
            if (t.data_ptr(), t._version) == before[name] or any(t is other for other in but):
                continue
            if id(t) in self.buffers:
                raise CarriedOver(changed("buffer", name))
            if trained or id(t) not in self._trained:
                raise CarriedOver(changed("parameter", name))

    def check_attributes(self, before: dict[str, Any], used: Collection[int] = ()) -> None:
        """Raise an error if an attribute changed since ``before``.

        Args:
            before: an earlier result of :meth:`attributes`.
            used: ids of the tensors from before the pass that the pass used.

        Raises:
            CarriedOver: an attribute changed; the message names it.
        """
        now = self.attributes()
        if now is before:
            return
        for name in before.keys() | now.keys():
            old, new = before.get(name, _UNKNOWN), now.get(name, _UNKNOWN)
            if old is not new and not _may_become(name, old, new, used):
                raise CarriedOver(changed("attribute", name.removeprefix(_WRITES)))


def _may_become(name: str, old: Any, new: Any, used: Collection[int]) -> bool:
    """Return whether a forward pass may replace ``old`` by ``new``.

    A pass may store its tensors where there was nothing, or a tensor of an earlier pass, because
    :class:`~dpmi.privacy.isolation.provenance.Provenance` rejects every later use of a tensor that depends on records.
    A tensor that depends on no record may also replace a tensor that the pass did not use, such as the weight that
    spectral normalization computes in every pass.
    """
    if isinstance(old, _Writes) and isinstance(new, _Writes):
        return (
            old.to is not new.to or old.times == new.times
        )  # a different tensor is checked by its own entry
    if isinstance(old, _Writes) or isinstance(new, _Writes):
        return True
    if isinstance(old, Tensor) and _depends_on_none(new):
        return id(old) not in used
    if old is _UNKNOWN or old is None or _depends_on_records(old):
        made = isinstance(new, Tensor) and hasattr(new, "_dpmi")
        return made or new is None or new is _UNKNOWN or (old is _UNKNOWN and name.startswith("len("))
    return type(old) is type(new) and isinstance(old, _COMPARED) and bool(old == new)


def _depends_on_none(value: Any) -> bool:
    mark = getattr(value, "_dpmi", None) if isinstance(value, Tensor) else None
    return mark is not None and bool(mark[1])


def _depends_on_records(value: Any) -> bool:
    mark = getattr(value, "_dpmi", None) if isinstance(value, Tensor) else None
    return mark is not None and not mark[1]


class _Writes(NamedTuple):
    """The number of writes to a tensor."""

    to: Tensor
    times: int


class _Kept:
    """The attributes of a module, with a quick check for changes.

    Args:
        module: the module.
        watched: ids of parameters and buffers, whose writes are checked elsewhere.
    """

    def __init__(self, module: object, watched: Collection[int]) -> None:
        self._watched = watched
        self.attributes: dict[str, Any] = {}
        self._views: list[Collection[Any]] = []
        """A live view of the content of every container."""
        self._sizes: list[int] = []
        self._values: list[Any] = []
        self._arrays: list[tuple[np.ndarray[Any, Any], int]] = []
        self._writes: list[_Writes] = []
        self._seen: set[int] = set()
        if isinstance(module, nn.Module):
            for prefix, m in module.named_modules():
                self._take(f"{prefix}." if prefix else "", vars(m), _DEPTH, but=_OWN)
            for kind in {type(m) for m in module.modules() if not type(m).__module__.startswith("torch.")}:
                self._take(f"{kind.__name__}.", vars(kind), _DEPTH, but=_OF_CLASSES)
        elif hasattr(module, "__dict__"):
            self._take("", vars(module), _DEPTH)

    def is_as_it_was(self) -> bool:
        """Return whether every container still holds the same objects, and every array the same numbers."""
        if list(map(len, self._views)) != self._sizes:
            return False
        if not all(map(operator.is_, chain.from_iterable(self._views), self._values)):
            return False
        if any(version(writes.to) != writes.times for writes in self._writes):
            return False
        return all(_content(array) == content for array, content in self._arrays)

    def _take(self, prefix: str, container: Any, depth: int, but: frozenset[str] = frozenset()) -> None:
        if not isinstance(container, tuple | frozenset):  # these cannot change
            view = container.values() if isinstance(container, Mapping) else container
            self._views.append(view)
            self._sizes.append(len(view))
            self._values.extend(view)
        for key, value in container.items() if isinstance(container, Mapping) else enumerate(container):
            if key in but:
                continue
            name = f"{prefix}{key}"
            inside = _inside(value) if depth else None
            if isinstance(value, np.ndarray):
                self._arrays.append((value, _content(value)))
                self.attributes[name] = self._arrays[-1][1]
            elif inside is None:
                self.attributes[name] = value
                if isinstance(value, Tensor) and id(value) not in self._watched:
                    self._writes.append(_Writes(value, version(value)))
                    self.attributes[f"{_WRITES}{name}"] = self._writes[-1]
            elif id(inside) not in self._seen:
                self._seen.add(id(inside))
                self.attributes[f"len({name})"] = len(inside)
                self._take(f"{name}.", inside, depth - 1)


def _inside(value: Any) -> Any:
    """Return a value that is a container, or the dict of its attributes; None if it has neither."""
    if isinstance(value, dict | list | tuple | deque | set | frozenset):
        return value
    plain = isinstance(value, nn.Module | Tensor | type) or callable(value) or not hasattr(value, "__dict__")
    return None if plain else vars(value)


def _content(array: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())
