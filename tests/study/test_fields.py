"""The settings of plug-ins: every one of dpmi's has a description, and its type and default are those of the code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from dpmi import attacks, data, defenses
from dpmi.study.fields import Field, fields

PLUGINS = [
    (registry._kind, plugin)
    for registry in (attacks.REGISTRY, data.REGISTRY, defenses.REGISTRY)
    for plugin in registry.builtins
]


@pytest.mark.parametrize(("kind", "plugin"), PLUGINS, ids=lambda value: getattr(value, "name", value))
def test_every_setting_is_described(kind: str, plugin: Any) -> None:
    assert [each.name for each in fields(plugin) if not each.meaning or not each.type] == []


@dataclass
class Base:
    """A base.

    Args:
        first: the first, in
            two lines.
        second: of the base.
    """

    first: int
    second: str = "a"


@dataclass
class Inner:
    """Inside.

    Attributes:
        depth: how deep, at least 0.
    """

    depth: float = 1.0


@dataclass
class Thing(Base):
    """A thing; Args: is no heading here.

    Args:
        second, third: of the thing.
        inner: nested.

    Raises:
        ValueError: never.
    """

    third: list[int] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    silent: bool = False


def test_of_a_class_and_its_base() -> None:
    assert fields(Thing) == [
        Field(name="first", type="int", default=None, meaning="the first, in two lines."),
        Field(name="second", type="str", default="'a'", meaning="of the thing."),
        Field(name="third", type="list[int]", default="[]", meaning="of the thing."),
        Field(name="inner", type="Inner", default="a table", meaning="nested."),
        Field(name="inner.depth", type="float", default="1.0", meaning="how deep, at least 0."),
        Field(name="silent", type="bool", default="False", meaning=""),
    ]


def test_of_a_data_set() -> None:
    (found,) = fields(data.REGISTRY.get("digits"))
    assert (found.name, found.type, found.default) == ("seed", "int", "0")
    assert fields(object()) == []
