"""Public tensors, which depend on no record: a module's parameters, buffers, and tensors among its attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_DEPTH = 3
"""Depth to which lists and dicts among a module's attributes are searched."""


class PublicTensors:
    """The public tensors of modules. They are collected once, before training, so that no result of a pass is included.

    Args:
        modules: the user's module, and further modules and objects such as a criterion.
    """

    def __init__(self, *modules: object) -> None:
        self._known: dict[int, tuple[Tensor, str, int | None]] = {}
        for module in modules:
            self._collect(module)

    def reference(self, t: Tensor) -> str | None:
        """Return the tensor's name, or None if it is not public; a modified attribute is no longer public."""
        found = self._known.get(id(t))
        if found is None:
            return None
        _, name, version = found
        return name if version is None or version == t._version else None

    def storages(self) -> frozenset[int]:
        """Return the addresses of their memory."""
        return frozenset(t.untyped_storage().data_ptr() for t, _, _ in self._known.values() if t.numel())

    def name(self, t: Tensor) -> str:
        """Return the name of a public tensor."""
        return self._known[id(t)][1]

    def __contains__(self, t: object) -> bool:
        return id(t) in self._known

    def add(self, t: Tensor, name: str) -> None:
        """Add a constant; it must not be modified from here on."""
        if id(t) not in self._known:
            self._known[id(t)] = (t, name, t._version)

    def _collect(self, module: object) -> None:
        if not isinstance(module, nn.Module):
            for name, t in _tensors(vars(module) if hasattr(module, "__dict__") else {}, "", _DEPTH):
                self.add(t, name)
            return
        for name, p in (*module.named_parameters(), *module.named_buffers()):
            # No fixed version, because the optimizer updates it. `Watch` checks it for other changes.
            self._known[id(p)] = (p, name, None)
        for prefix, m in module.named_modules():
            own = {k: v for k, v in vars(m).items() if k not in ("_parameters", "_buffers", "_modules")}
            for name, t in _tensors(own, f"{prefix}." if prefix else "", _DEPTH):
                self.add(t, name)


def _tensors(values: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif depth and isinstance(value, list | tuple):
            yield from _tensors({str(i): v for i, v in enumerate(value)}, f"{name}.", depth - 1)
        elif depth and isinstance(value, dict):
            yield from _tensors({str(k): v for k, v in value.items()}, f"{name}.", depth - 1)
