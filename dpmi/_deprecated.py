"""Old names that go on working for a while, with a warning that says what to use instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module


def renamed(module: str, names: Mapping[str, str], *, until: str) -> Callable[[str], object]:
    """Return a ``__getattr__`` for a module whose names moved.

    Args:
        module: ``__name__`` of the module.
        names: from each old name to "package.module:name" of its replacement.
        until: the version of dpmi that drops the old names.

    Returns:
        A function for the module's ``__getattr__`` (PEP 562). It warns with DeprecationWarning, at the line that uses
        the old name, and returns what the replacement is; any other name raises AttributeError.
    """

    def getattribute(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = names[name].partition(":")
        warnings.warn(
            f"{module}.{name} is now {place}.{new}; the old name works until dpmi {until}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(place), new)

    return getattribute
