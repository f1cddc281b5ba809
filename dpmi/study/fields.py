"""The settings of a plug-in, with types, defaults and the descriptions in its docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Field:
    """A setting of a plug-in.

    Attributes:
        name: its key in a study file; "prior.steps" is the key ``steps`` of a table ``prior``.
        type: its type, as it is written in the code.
        default: its default, as text; None if it has to be given.
        meaning: its description, with range and unit, from the docstring.
    """

    name: str
    type: str
    default: str | None
    meaning: str


def fields(plugin: Any) -> list[Field]:
    """Return the settings of a defence or an attack, the options of a data set, or the limits of a model or metric."""
    if isinstance(plugin, type) and dataclasses.is_dataclass(plugin):
        return list(_of_class(plugin))
    if (loader := getattr(plugin, "loader", None)) is not None:
        parameters = inspect.signature(loader).parameters.values()
        return [
            Field(
                name=p.name,
                type=_type(p.annotation),
                default=None if p.default is p.empty else repr(p.default),
                meaning=_of_docstring(inspect.getdoc(loader) or "").get(p.name, ""),
            )
            for p in parameters
            if p.name != "root"
        ]
    return []


def _of_class(plugin: type) -> Iterator[Field]:
    for f in dataclasses.fields(plugin):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        nested = type(default) if dataclasses.is_dataclass(default) else None
        yield Field(
            name=f.name,
            type=_type(f.type),
            default=None if default is dataclasses.MISSING else "a table" if nested else repr(default),
            meaning=_meaning(plugin, f.name),
        )
        for inner in _of_class(nested) if nested else ():
            yield dataclasses.replace(inner, name=f"{f.name}.{inner.name}")


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))
    return "" if annotation is inspect.Parameter.empty else text.replace("typing.", "")


def _meaning(plugin: type, name: str) -> str:
    """Return the description of a field from the nearest class that has one."""
    for parent in plugin.__mro__:
        found = _of_docstring(inspect.cleandoc(parent.__doc__ or "")).get(name)
        if found:
            return found
    return ""


def _of_docstring(text: str) -> dict[str, str]:
    """Return the entries below ``Args:`` and ``Attributes:``.

    >>> _of_docstring("Does it.\\n\\nArgs:\\n    a, b: two,\\n        lines.\\n    c: three.\\n\\nRaises:\\n    x: no.")
    {'a': 'two, lines.', 'b': 'two, lines.', 'c': 'three.'}
    """
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)*)", text, flags=re.MULTILINE):
        for names, meaning in _entries(inspect.cleandoc("\n" + section)):
            found.update(dict.fromkeys(names, meaning))
    return found


def _entries(section: str) -> Iterator[tuple[list[str], str]]:
    for entry in re.split(r"\n(?=\S)", section):
        names, colon, meaning = entry.partition(":")
        if colon:
            yield [name.strip(" *`") for name in names.split(",")], " ".join(meaning.split())
