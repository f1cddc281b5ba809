"""Plug-ins by name: built-in ones, and those that installed packages declare as entry points.

A package adds a plug-in by declaring it in its own ``pyproject.toml``; dpmi itself needs no change::

    [project.entry-points."dpmi.attacks"]
    my-attack = "my_package.attack:MyAttack"

There are six groups. ``dpmi.attacks`` and ``dpmi.defenses`` hold classes, whose fields are hyper-parameters;
``dpmi.data``, ``dpmi.models``, ``dpmi.metrics`` and ``dpmi.accountants`` hold objects. This module is in the package
``accountants``, which imports nothing of dpmi, because accountants are plug-ins too.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["PluginError", "Registry", "origin"]


class Named(Protocol):
    """Anything with a plug-in name."""

    @property
    def name(self) -> str:
        """The name to look the plug-in up by, short and lower-case, such as ``enhanced``."""


Plugin = TypeVar("Plugin", bound=Named | type[Named])


class PluginError(ValueError):
    """The plug-in does not exist, or the installed package that declares it cannot be used.

    >>> from accountants import ACCOUNTANTS
    >>> try:
    ...     ACCOUNTANTS.get("tihgt")
    ... except PluginError as error:
    ...     print(error)
    unknown accountant 'tihgt'; did you mean 'tight'? (known: tight, lemma3, theorem1)
    """


class Registry(Generic[Plugin]):
    """Plug-ins of one kind, by name: either all classes, or all objects.

    Listing the entry points imports no package. A package is imported only when its plug-in is requested, so a broken
    package does not affect the other plug-ins.

    Args:
        group: entry point group, such as ``dpmi.attacks``.
        kind: the word for one plug-in in messages, such as ``attack``.
        base: the type that every plug-in is a subclass of (classes) or an instance of (objects).
        builtins: the built-in plug-ins; a package cannot override their names.
        classes: whether the plug-ins are classes.
    """

    def __init__(
        self, group: str, kind: str, base: type, builtins: Iterable[Plugin] = (), *, classes: bool = False
    ) -> None:
        self._group = group
        self._kind = kind
        self._base = base
        self._classes = classes
        self._builtins = {str(plugin.name): plugin for plugin in builtins}

    @property
    def builtins(self) -> tuple[Plugin, ...]:
        """The built-in plug-ins."""
        return tuple(self._builtins.values())

    def names(self) -> list[str]:
        """Return every name that :meth:`get` accepts: the built-in ones, then those of packages, sorted."""
        return [*self._builtins, *sorted({entry.name for entry in self._entries()} - set(self._builtins))]

    def get(self, name: str) -> Plugin:
        """Return the plug-in of that name.

        Raises:
            PluginError: (a ValueError) no plug-in has that name, two packages declare it, or the package that
                declares it cannot be imported or declares an object of the wrong type or name.
        """
        if name in self._builtins:
            return self._builtins[name]
        entries = [entry for entry in self._entries() if entry.name == name]
        if not entries:
            near = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PluginError(f"unknown {self._kind} {name!r}{hint} (known: {', '.join(self.names())})")
        if len(entries) > 1:
            owners = " and ".join(_owner(entry) for entry in entries)
            raise PluginError(f"{self._kind} {name!r} is declared by {owners}; uninstall all but one of them")
        return self._load(entries[0])

    def all(self) -> dict[str, Plugin | PluginError]:
        """Return every plug-in by name, or the error of one that cannot be used."""
        found: dict[str, Plugin | PluginError] = {}
        for name in self.names():
            try:
                found[name] = self.get(name)
            except PluginError as error:
                found[name] = error
        return found

    @contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """Name the plug-in of a package in an error that is no message to the user, such as a KeyError of its code."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if name in self._builtins or isinstance(error, MESSAGES):
                raise
            raise PluginError(f"{self._kind} {name!r} failed: {told(error)}") from error

    def _entries(self) -> tuple[EntryPoint, ...]:
        places = ((path, Path(path).stat().st_mtime_ns) for path in sys.path if Path(path).is_dir())
        return _declared(self._group, tuple(places))

    def _load(self, entry: EntryPoint) -> Plugin:
        where = f"{self._kind} {entry.name!r} of {_owner(entry)} ({entry.value})"
        try:
            plugin: Plugin = entry.load()
        except (Exception, SystemExit) as error:  # a foreign module can raise anything while it is imported
            raise PluginError(f"{where} cannot be imported: {told(error)}") from error
        try:
            fits, own_name = self._fits(plugin), getattr(plugin, "name", None)
        except (Exception, SystemExit) as error:  # and so can a foreign object
            raise PluginError(f"{where} cannot be used: {told(error)}") from error
        if not fits or own_name != entry.name:
            wanted = f"a subclass of {self._base.__name__}" if self._classes else f"a {self._base.__name__}"
            raise PluginError(
                f"{where} must be {wanted} whose `name` is {entry.name!r}; got a {type(plugin).__name__} with name "
                f"{own_name!r}"
            )
        return plugin

    def _fits(self, plugin: object) -> bool:
        if self._classes:
            return isinstance(plugin, type) and issubclass(plugin, self._base)
        return isinstance(plugin, self._base)


@lru_cache(maxsize=16)
def _declared(group: str, places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group; the places are the search path and when each of its folders last changed.

    A lookup takes 15 ms, and a study needs one for every trial.
    """
    # One installation can be listed twice: as a folder on the path and as an editable install.
    return tuple({(entry.name, entry.value): entry for entry in entry_points(group=group)}.values())


OWN = ("accountants", "dpmi")
"""Packages whose plug-ins are identified by the versions of the stages, see :mod:`dpmi.versions`."""


@lru_cache
def origin(plugin: type | Callable[..., Any]) -> str:
    """Return name and version of the distribution of a class or function; empty for dpmi's own.

    A class or function that belongs to no distribution, for example in a notebook, is identified by its module and a
    hash of its source code.

    >>> origin(Registry)
    ''
    """
    while isinstance(plugin, partial):  # the module of the partial itself is functools
        plugin = plugin.func
    top = plugin.__module__.partition(".")[0]
    if top in OWN:
        return ""
    owners = sorted(set(packages_distributions().get(top, ())))
    if owners:
        return ", ".join(f"{name} {version(name)}" for name in owners)
    try:
        source = inspect.getsource(plugin)
    except (OSError, TypeError):
        return plugin.__module__
    return f"{plugin.__module__} {hashlib.sha256(source.encode()).hexdigest()[:16]}"


MESSAGES = (ValueError, TypeError, RuntimeError, OSError)
"""Errors whose text is a message to the user."""


def told(error: BaseException) -> str:
    """Return an error as one line, with its type, because a KeyError tells the key only.

    >>> told(KeyError("size")), told(SystemExit())
    ("KeyError: 'size'", 'SystemExit')
    """
    text = " ".join(str(error).split())
    return type(error).__name__ + (f": {text}" if text else "")


def _owner(entry: EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else f"package {entry.dist.name!r}"
