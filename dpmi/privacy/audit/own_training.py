"""Audits of a user's own training function, which need no change of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ..engine import PrivacyEngine
from ..observer import AMBIENT
from .audit import Audit


@contextmanager
def auditing(audit: Audit) -> Iterator[None]:
    """Audit every ``make_private`` inside that is given no audit of its own."""
    before = AMBIENT.set(audit)
    try:
        yield
    finally:
        AMBIENT.reset(before)


def audited(function: Callable[[], Any], audit: Audit, *, name: str = "the function") -> PrivacyEngine:
    """Call a training function under an audit, and return its engine.

    Args:
        function: it takes no arguments, trains with a :class:`~dpmi.privacy.PrivacyEngine` that it makes itself, and
            returns this engine, alone or in a tuple, as ``main`` of examples/plain_loop.py does.
        audit: the settings.
        name: of the function, for error messages.

    Raises:
        ValueError: it returns no engine, or its engine released nothing.
    """
    with auditing(audit), redirect_stdout(sys.stderr):  # what the function prints is not part of the table
        result = function()
    found = list(result) if isinstance(result, tuple | list) else [result]
    engines = [part for part in found if isinstance(part, PrivacyEngine)]
    if len(engines) != 1:
        kinds = ", ".join(type(part).__name__ for part in found)
        raise ValueError(
            f"{name} returned {kinds}, with {len(engines)} privacy engines; it must return the one PrivacyEngine that "
            "trained the model, alone or in a tuple, as main() of examples/plain_loop.py does"
        )
    try:
        engines[0].finding()
    except RuntimeError as error:
        raise ValueError(f"{name} returned an engine without an audit: {error}") from error
    return engines[0]


def load(target: str) -> Callable[[], Any]:
    """Return the function of "FILE.py:function".

    Raises:
        ValueError: the text has another form, there is no such file or function, or the file cannot be imported.
    """
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier() or path.suffix != ".py":
        raise ValueError(f"the target is {target!r}; it must be engine, or FILE.py:function")
    if not path.is_file():
        raise ValueError(f"the target is {target!r}, but there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"audited_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ValueError(f"{path} has no function {name!r}; it has {', '.join(names) or 'none'}")
    found: Callable[[], Any] = function
    return found
