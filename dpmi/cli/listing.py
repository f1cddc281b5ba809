"""``dpmi list | schema``: what there is by name, and the settings of each."""
# ruff: noqa: PLC0415

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpmi.cli.arguments import AsJson
from dpmi.cli.output import console

if TYPE_CHECKING:
    from accountants.plugins import Registry


def list_(
    name: Annotated[str | None, typer.Argument(help="Show the settings of this one.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List all data sets, defences, attacks, metrics, models and accountants, or the settings of one of them."""
    kinds = _kinds()
    if name is None:
        _print_all(kinds, as_json=as_json)
        return
    found = {kind: entries[name] for kind, entries in kinds.items() if name in entries}
    if not found:
        known = [each for entries in kinds.values() for each in entries]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is nothing of the name {name!r}{hint}; dpmi list shows all names")
    if as_json:
        print(json.dumps([described(kind, name, plugin) for kind, plugin in found.items()], indent=2))
        return
    for kind, plugin in found.items():
        _print_one(described(kind, name, plugin))


def schema() -> None:
    """Print a JSON schema of study files, with which editors complete and check them."""
    from dpmi.study.json_schema import study_schema

    print(json.dumps(study_schema(), indent=1))


def _kinds() -> dict[str, dict[str, Any]]:
    """Return every plug-in by kind and name: the plug-in, its description, or why it cannot be used."""
    from accountants import ACCOUNTANTS
    from dpmi import attacks, data, defenses, metrics, models

    registries: dict[str, Registry[Any]] = {
        "data sets": data.REGISTRY,
        "defences": defenses.REGISTRY,
        "attacks": attacks.REGISTRY,
        "metrics": metrics.REGISTRY,
        "models": models.REGISTRY,
        "accountants": ACCOUNTANTS,
    }
    kinds: dict[str, dict[str, Any]] = {kind: dict(registry.all()) for kind, registry in registries.items()}
    return {**kinds, "metrics": {**metrics.METRICS, **kinds["metrics"]}}


def _print_all(kinds: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    from rich.table import Table

    lines = {
        kind: {name: _line(plugin) for name, plugin in entries.items()} for kind, entries in kinds.items()
    }
    if as_json:
        print(json.dumps(lines, indent=2))
        return
    table = Table("kind", "name", "what it is", box=None, header_style="bold")
    for kind, entries in lines.items():
        for number, (name, line) in enumerate(entries.items()):
            table.add_row("" if number else kind, name, line)
    console().print(table)


def _line(plugin: Any) -> str:
    """Return one line: a description, the first of a docstring, or why the plug-in cannot be used."""
    from accountants.plugins import told

    if isinstance(plugin, str | ValueError):
        return " ".join(str(plugin).split())
    try:
        text = getattr(plugin, "description", None) or inspect.getdoc(plugin) or "no description"
        return str(text).strip().partition("\n")[0]
    except (Exception, SystemExit) as error:  # the code of a package may raise anything
        return f"cannot be described: {told(error)}"


def described(kind: str, name: str, plugin: Any) -> dict[str, Any]:
    """Return what ``dpmi list NAME`` and the plug-in's page show; a key without a value is left out.

    Raises:
        PluginError: the plug-in cannot be imported or described.
    """
    from accountants.plugins import PluginError, told
    from dpmi.study.fields import fields

    if isinstance(plugin, PluginError):
        raise plugin
    try:
        found = [] if isinstance(plugin, str) else fields(plugin)
        facts = {} if isinstance(plugin, str) else _facts(plugin)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{name!r} cannot be described: {told(error)}") from error
    return {
        "kind": kind,
        "name": name,
        "description": _line(plugin),
        **facts,
        "fields": [dataclasses.asdict(field) for field in found],
    }


def _facts(plugin: Any) -> dict[str, str]:
    """Return where a plug-in comes from, and what it takes or gives, as texts."""
    from accountants.plugins import origin

    functions = (getattr(plugin, name, None) for name in ("loader", "layers", "measure", "bound"))
    code = plugin if isinstance(plugin, type) else next(filter(callable, functions), type(plugin))
    code = getattr(code, "func", code)  # of a partial
    facts = {"source": origin(code) or f"dpmi, {code.__module__}"}
    for name, label in (("requires", "needs"), ("strength_field", "strength"), ("unit", "unit")):
        value = getattr(plugin, name, None)
        if value and not callable(value) and not isinstance(value, property):
            facts[label] = ", ".join(sorted(value)) if isinstance(value, frozenset) else str(value)
    if (side := getattr(plugin, "smallest_side", None)) is not None:
        facts["smallest image"] = f"{side} x {side} pixels"
    if hasattr(plugin, "is_guarantee"):
        facts["a guarantee"] = "yes" if plugin.is_guarantee else "no"
    return facts


def _print_one(found: Mapping[str, Any]) -> None:
    from rich.table import Table

    out = console()
    out.print(f"{found['name']}, of the {found['kind']}: {found['description']}")
    for label, value in found.items():
        if label not in ("kind", "name", "description", "fields"):
            out.print(f"  {label}: {value}")
    if not found["fields"]:
        return
    table = Table("setting", "type", "default", "what it is, its range", box=None, header_style="bold")
    for field in found["fields"]:
        default = "(required)" if field["default"] is None else field["default"]
        table.add_row(field["name"], field["type"], default, field["meaning"])
    out.print(table)
