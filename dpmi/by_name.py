"""Code of the user by name: ``module:name`` or ``FILE.py:name``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from accountants.plugins import origin, told


def is_name(text: str) -> bool:
    """Return whether a text has the form of such a name.

    >>> is_name("mine:Net"), is_name("nets/mine.py:Net"), is_name("torchvision:resnet18"), is_name("mine:3")
    (True, True, True, False)
    """
    place, _, name = text.rpartition(":")
    is_module = all(part.isidentifier() for part in place.split("."))
    return (is_module or place.endswith(".py")) and name.isidentifier()


def imported(text: str) -> Callable[..., Any]:
    """Return the function or class of this name.

    Modules are also looked for in the current folder, and those that a file imports, beside it.

    Raises:
        ValueError: the text has another form, there is no such file, module or name, it is not callable, or the module
            cannot be imported.
    """
    place, _, name = text.rpartition(":")
    if not is_name(text):
        raise ValueError(f"{text!r} must be module:name or FILE.py:name")
    module = _of_file(place) if place.endswith(".py") else _of_module(place)
    found: Any = getattr(module, name, None)
    if not callable(found):
        own = [
            n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
        ]
        names = [n for n in own if callable(getattr(module, n)) and not n.startswith("_")]
        raise ValueError(f"{place} has no function or class {name!r}; it has {', '.join(names) or 'none'}")
    code: Callable[..., Any] = found
    return code


def code_of(text: str) -> str:
    """Return what identifies the code of this name: its distribution and version, and a hash of its file.

    Code of the user that the file imports does not count.

    Raises:
        ValueError: as :func:`imported`.
    """
    found = imported(text)
    try:
        file = inspect.getsourcefile(inspect.unwrap(found))
    except TypeError:  # an instance, or a partial
        file = None
    content = b"" if file is None else Path(file).read_bytes()
    return f"{origin(found)} {hashlib.sha256(content).hexdigest()[:16]}".strip()


def _of_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a foreign module can raise anything while it is imported
        raise ValueError(f"{name} cannot be imported: {told(error)}") from error
    finally:
        sys.path.remove(here)


def _of_file(file: str) -> ModuleType:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return _executed(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=16)  # two names of one file are of one module
def _executed(path: Path, _changed: int) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dpmi_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be imported: {told(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
