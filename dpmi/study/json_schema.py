"""A JSON schema of study files, with which editors complete and check them.

It knows names, keys, types and ranges of the tables. What depends on the data, or on two keys at once, only
:func:`dpmi.study.parse` checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from accountants.plugins import PluginError, Registry
from dpmi import attacks, data, defenses, models

from .fields import fields
from .spec import OWN, TrainingSpec
from .study import StudySpec

Schema = dict[str, Any]

BY_NAME: Schema = {"type": "string", "pattern": r"^.+:[A-Za-z_][A-Za-z0-9_]*$"}
"""Code of the user, ``module:name`` or ``FILE.py:name``."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def study_schema(*, installed: bool = True) -> Schema:
    """Return the schema.

    Args:
        installed: whether it also knows the plug-ins of installed packages; otherwise dpmi's own only.
    """
    schema = StudySpec.model_json_schema()
    definitions: Schema = schema["$defs"]

    def names(registry: Registry[Any]) -> list[str]:
        return sorted(_usable(registry, installed))

    def table(registry: Registry[Any], extra: Mapping[str, Schema]) -> Schema:
        kinds = [
            _of_plugin(name, plugin, extra, definitions)
            for name, plugin in sorted(_usable(registry, installed).items())
        ]
        return {"anyOf": kinds}

    properties: Schema = schema["properties"]
    training = {**TrainingSpec.model_json_schema(), "required": []}
    properties["attacks"] = {"type": "array", "minItems": 1, "items": table(attacks.REGISTRY, {})}
    own = table(defenses.REGISTRY, {"training": training})
    combined = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "pattern": r"\+"}},
    }
    properties["defenses"] = {"type": "array", "minItems": 1, "items": {"anyOf": [*own["anyOf"], combined]}}
    name = {"anyOf": [{"enum": names(data.REGISTRY)}, BY_NAME]}
    definitions["DataSpec"]["properties"]["name"] = name
    definitions["PublicSpec"]["properties"]["name"] = name
    definitions["DataSpec"]["properties"]["public"]["anyOf"].insert(0, name)
    own_files = [_of_loader(data.REGISTRY.get(each).loader) for each in OWN]
    for options in own_files:
        options["properties"]["users"] = definitions["DataSpec"]["properties"]["users"]
    properties["data"] = {"anyOf": [name, *own_files, {"$ref": "#/$defs/DataSpec"}]}
    model = {
        "anyOf": [
            {"enum": names(models.REGISTRY)},
            {"type": "string", "pattern": r"^torchvision/|\+groupnorm$"},
            BY_NAME,
        ]
    }
    properties["model"] = definitions["EvaluatorSpec"]["properties"]["model"] = model
    for owner in (properties, definitions["EvaluatorSpec"]["properties"]):
        owner["normalize"]["anyOf"].insert(0, {"enum": list(models.NORMALIZATIONS)})
    features = properties["features"]
    features["anyOf"] = [{"type": "string", "minLength": 1}, *features["anyOf"]]
    return {"$schema": DIALECT, **_for_toml(schema), "title": "A study of dpmi"}


def _usable(registry: Registry[Any], installed: bool) -> dict[str, Any]:
    if not installed:
        return {str(plugin.name): plugin for plugin in registry.builtins}
    return {name: found for name, found in registry.all().items() if not isinstance(found, PluginError)}


def _of_plugin(name: str, plugin: type, extra: Mapping[str, Schema], definitions: Schema) -> Schema:
    """Return the schema of a plug-in's table; every value may be a list of values, which is a sweep."""
    types = get_type_hints(plugin)
    properties: Schema = {"name": {"const": name}}
    meanings = {field.name: field.meaning for field in fields(plugin)}
    for field in dataclasses.fields(plugin):
        one = TypeAdapter(types[field.name]).json_schema()
        definitions.update(one.pop("$defs", {}))
        several: Schema = {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}
        if one.keys() == {"type"}:
            shared = f"{one['type']}, or a sweep"
            definitions[shared] = several
            several = {"$ref": f"#/$defs/{shared}"}
        properties[field.name] = {"description": meanings[field.name], **several}
    needed = [
        field.name
        for field in dataclasses.fields(plugin)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    return {
        "type": "object",
        "properties": {**properties, **extra},
        "required": ["name", *needed],
        "additionalProperties": False,
    }


def _of_loader(loader: Callable[..., Any]) -> Schema:
    """Return the schema of a table with the options of a data set."""
    types = get_type_hints(loader)
    meanings = {field.name: field for field in fields(data.Dataset("", "", loader))}
    return {
        "type": "object",
        "properties": {
            name: {"description": field.meaning, **TypeAdapter(types[name]).json_schema()}
            for name, field in meanings.items()
        },
        "required": [name for name, field in meanings.items() if field.default is None],
        "additionalProperties": False,
    }


def _for_toml(schema: Any) -> Any:
    """Return the schema without null, which TOML does not have, titles that repeat the key, and examples in Python."""
    if isinstance(schema, list):
        return [_for_toml(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: _for_toml(value) for key, value in schema.items() if not (key == "title" and "type" in schema)
    }
    if "anyOf" in found:
        found["anyOf"] = [each for each in found["anyOf"] if each != {"type": "null"}]
    if found.get("default", 0) is None:
        del found["default"]
    if isinstance(described := found.get("description"), str):
        found["description"] = "\n\n".join(
            part for part in described.split("\n\n") if not part.startswith(">>> ")
        )
    return found
