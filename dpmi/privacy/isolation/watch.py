"""Sees whether a forward pass changed the module that it ran through."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from .provenance import CarriedOver

_DEPTH = 3
"""How deep lists, dicts and objects among a module's attributes are searched."""

# nn.Module's own: parameters and buffers are watched as tensors, and a loop may turn hooks and modes on and off.
_OWN = frozenset(vars(nn.Module()))
_UNKNOWN = object()
_COMPARED = (int, float, complex, bool, str, bytes, frozenset, np.generic)


class Watch:
    """What parameters, buffers and attributes of a module are, and whether somebody changed them.

    Args:
        module: the user's; or a criterion, which may be a function.
        trained: the parameters that the private optimizer moves.
    """

    def __init__(self, module: object, trained: Iterable[Tensor] = ()) -> None:
        self._module = module
        self._trained = {id(t) for t in trained}
        self._tensors: dict[str, Tensor] = {}
        self.buffers: frozenset[int] = frozenset()
        if isinstance(module, nn.Module):
            self._tensors = dict((*module.named_parameters(), *module.named_buffers()))
            self.buffers = frozenset(id(b) for b in module.buffers())

    def tensors(self) -> dict[str, tuple[int, int]]:
        """Address and version of every parameter and buffer, by name."""
        return {name: (t.data_ptr(), t._version) for name, t in self._tensors.items()}

    def attributes(self) -> dict[str, Any]:
        """Everything else that the module keeps, by name."""
        return dict(_attributes(self._module))

    def storages(self) -> frozenset[int]:
        """Addresses of the memory of parameters and buffers."""
        return frozenset(t.untyped_storage().data_ptr() for t in self._tensors.values() if t.numel())

    def check_tensors(
        self, before: dict[str, tuple[int, int]], *, but: Collection[Tensor] = (), trained: bool = True
    ) -> None:
        """Refuse a change since ``before``.

        Args:
            before: of :meth:`tensors`.
            but: buffers that may have changed, because what was written depends on no record.
            trained: whether to look at the trained parameters too.

        Raises:
            CarriedOver: names the tensor.
        """
        for name, t in self._tensors.items():
            if (t.data_ptr(), t._version) == before[name] or any(t is other for other in but):
                continue
            if id(t) in self.buffers:
                raise CarriedOver(
                    f"the forward pass changed buffer {name!r}: statistics of the private records would be released "
                    "without noise. Use a layer without running statistics, such as GroupNorm"
                )
            if trained or id(t) not in self._trained:
                raise CarriedOver(
                    f"the forward pass changed parameter {name!r}, which only the private optimizer may move: the "
                    f"change "
                    "would be released without noise. Take it out of the forward pass"
                )

    def check_attributes(self, before: dict[str, Any]) -> None:
        """Refuse a change since ``before``.

        Args:
            before: of :meth:`attributes`.

        Raises:
            CarriedOver: names the attribute.
        """
        now = self.attributes()
        for name in before.keys() | now.keys():
            old, new = before.get(name, _UNKNOWN), now.get(name, _UNKNOWN)
            if old is not new and not _may_become(name, old, new):
                raise CarriedOver(
                    f"the forward pass changed attribute {name!r} of the module: what it keeps of one bucket could "
                    f"reach "
                    "the next one. Compute it anew in every pass, or outside of the module from public values"
                )


def _may_become(name: str, old: Any, new: Any) -> bool:
    """Whether a forward pass may leave ``new`` where ``old`` was.

    Tensors that it made may be kept where there were none, or those of an earlier pass: every later use of what depends
    on records is refused by :class:`~dpmi.privacy.isolation.provenance.Provenance`.
    """
    if old is _UNKNOWN or old is None or _depends_on_records(old):
        made = isinstance(new, Tensor) and hasattr(new, "_dpmi")
        return made or new is None or new is _UNKNOWN or (old is _UNKNOWN and name.startswith("len("))
    return type(old) is type(new) and isinstance(old, _COMPARED) and bool(old == new)


def _depends_on_records(value: Any) -> bool:
    mark = getattr(value, "_dpmi", None) if isinstance(value, Tensor) else None
    return mark is not None and not mark[1]


def _attributes(module: object) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    if not isinstance(module, nn.Module):
        yield from _leaves(getattr(module, "__dict__", {}), "", seen, _DEPTH)
        return
    for prefix, m in module.named_modules():
        own = {key: value for key, value in vars(m).items() if key not in _OWN}
        yield from _leaves(own, f"{prefix}." if prefix else "", seen, _DEPTH)


def _leaves(values: dict[Any, Any], prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        inside = _inside(value) if depth else None
        if inside is None:
            yield name, value
        elif id(value) not in seen:
            seen.add(id(value))
            yield f"len({name})", len(inside)
            yield from _leaves(inside, f"{name}.", seen, depth - 1)


def _inside(value: Any) -> dict[Any, Any] | None:
    """What a container holds; None for what is none."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple | deque):
        return dict(enumerate(value))
    if isinstance(value, set | frozenset):
        return {"members": frozenset(value)} if value else {}
    if isinstance(value, np.ndarray):
        return {"content": zlib.crc32(np.ascontiguousarray(value).view(np.uint8).data) if value.size else 0}
    plain = isinstance(value, nn.Module | Tensor | type) or callable(value) or not hasattr(value, "__dict__")
    return None if plain else vars(value)
