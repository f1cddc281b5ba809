"""What attacks and defences promise alike: to be found by name, made from settings, compared, and sent elsewhere."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Any, ClassVar

import pytest


@dataclass(frozen=True)
class PluginCase:
    """Settings with which a plug-in is tried.

    Args:
        settings: the hyper-parameters.
        refused: for every hyper-parameter a value that it refuses, by "<name> must be ... got <value>".
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, Any] = field(default_factory=dict)


class PluginConformance:
    """The frame of a suite: ``cases`` by name, each made once per test, and the promises of any frozen dataclass."""

    cases: ClassVar[Mapping[str, Any]] = {}

    @staticmethod
    def registered(name: str) -> type[Any]:
        """Return the class of that name."""
        raise NotImplementedError

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        """Run the class once for every case."""
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", list(cls.cases), scope="class")

    @pytest.fixture
    def case(self, name: str) -> Any:
        """The settings."""
        return self.cases[name]

    @pytest.fixture
    def kind(self, name: str) -> type[Any]:
        """The class, found by its name."""
        return self.registered(name.split("/", maxsplit=1)[0])

    @pytest.fixture
    def plugin(self, kind: type[Any], case: PluginCase) -> Any:
        """The attack or defence."""
        return kind(**case.settings)

    def test_is_a_frozen_dataclass_that_shows_its_parameters(
        self, name: str, kind: type[Any], plugin: Any
    ) -> None:
        """It has the name it is registered by, and its hyper-parameters cannot be changed."""
        assert type(plugin) is kind
        assert plugin.name == name.split("/", maxsplit=1)[0]
        for own in fields(plugin):
            assert f"{own.name}={getattr(plugin, own.name)!r}" in repr(plugin)
            with pytest.raises(FrozenInstanceError):
                setattr(plugin, own.name, None)

    def test_same_settings_are_equal(self, kind: type[Any], plugin: Any, case: PluginCase) -> None:
        """The store finds what is finished by its settings."""
        assert plugin == kind(**case.settings)
        assert hash(plugin) == hash(kind(**case.settings))

    def test_survives_the_way_to_another_process(self, plugin: Any) -> None:
        """Trials run in worker processes."""
        there = pickle.loads(pickle.dumps(plugin))
        assert there == plugin
        assert type(there) is type(plugin)
        assert hash(there) == hash(plugin)
        assert copy.copy(plugin) == plugin

    def test_refuses_what_is_out_of_range(self, kind: type[Any], plugin: Any, case: PluginCase) -> None:
        """When it is made, and by a message that names the hyper-parameter and the value."""
        names = {own.name for own in fields(plugin)}
        assert set(case.refused) == names, "name a refused value of every field"
        for own, value in case.refused.items():
            with pytest.raises(ValueError, match=rf"{own} must be .* got {re.escape(repr(value))}"):
                kind(**{**case.settings, own: value})
