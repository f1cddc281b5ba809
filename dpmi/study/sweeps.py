"""Sweeps: expand a table of a study file into plug-ins, one per combination of its lists."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from accountants.plugins import told

from .spec import FLOAT32, LARGEST, SpecError, in_toml, unknown


def instances(get: Any, where: str, table: Mapping[str, Any]) -> Iterator[Any]:
    """Yield one plug-in per combination of the table's lists."""
    own = dict(table)
    name = own.pop("name", None)
    if not isinstance(name, str):
        raise SpecError(f'a table of {where} has no name; add name = "..."')
    try:
        plugin = get(name)
    except ValueError as error:
        raise SpecError(f"{where}.name: {error}") from error
    fields = dataclasses.fields(plugin)
    try:
        types = get_type_hints(plugin)
    except NameError as error:
        raise SpecError(f"{where} {name}: the type of a field is not known: {error}") from error
    swept = []
    for key, value in own.items():
        if key not in {f.name for f in fields}:
            raise SpecError(unknown(f"{where} {name}", key, (f.name for f in fields), what="key"))
        if value == []:
            raise SpecError(f"{where} {name}: {key} is []: a sweep needs at least 1 value")
        values = value if isinstance(value, list) else [value]
        swept.append([_typed(f"{where} {name}: {key}", types[key], v) for v in values])
    for f in fields:
        if f.name not in own and f.default is f.default_factory is dataclasses.MISSING:
            raise SpecError(f"{where} {name}: {f.name} is missing")
    for combination in itertools.product(*swept):
        try:
            yield plugin(**dict(zip(own, combination, strict=True)))
        except (TypeError, ValueError) as error:
            raise SpecError(f"{where} {name}: {error}") from error
        except (Exception, SystemExit) as error:  # the code of a package may raise anything
            raise SpecError(f"{where} {name}: {told(error)}") from error


def check_types(function: Callable[..., Any], values: Mapping[str, Any], *, where: str) -> None:
    """Raise SpecError if a value does not have the type of the function's argument of this name, if it is known."""
    try:
        types = get_type_hints(function)
    except (NameError, TypeError):  # a partial, or types of the user that are known to a type checker only
        return
    for key, value in values.items():
        if key not in types:
            continue
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError as error:
            shown = list(value) if isinstance(value, tuple) else value
            raise SpecError(f"{where}.{key} is {shown!r}: {in_toml(error.errors()[0]['msg'])}") from None


def _typed(where: str, expected: Any, value: Any) -> Any:
    """Convert a value to the type of its field, so that 1 and 1.0 are one setting with one key."""
    if dataclasses.is_dataclass(expected) and isinstance(value, dict):
        return _nested(where, expected, value)
    most = FLOAT32 if isinstance(value, float) else 2**63 - 1 if where.endswith("seed") else LARGEST
    if isinstance(value, int | float) and most < abs(value) < math.inf:
        raise SpecError(f"{where} is {value!r}: its absolute value must be at most {most}")
    try:
        # A list inside the list of a sweep is a tuple, which TOML does not have.
        return TypeAdapter(expected).validate_python(
            tuple(value) if isinstance(value, list) else value, strict=True
        )
    except ValidationError as error:
        raise SpecError(f"{where} is {value!r}: {in_toml(error.errors()[0]['msg'])}") from None


def _nested(where: str, expected: Any, table: Mapping[str, Any]) -> Any:
    """Build a nested plug-in from a table inside a table, such as an attack's prior."""
    types = get_type_hints(expected)
    known = [f.name for f in dataclasses.fields(expected)]
    for key in table:
        if key not in known:
            raise SpecError(unknown(where, key, known, what="key"))
    typed = {key: _typed(f"{where}.{key}", types[key], value) for key, value in table.items()}
    try:
        return expected(**typed)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{where}: {error}") from error
