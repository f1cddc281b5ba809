"""The common contract of attacks and defences: registration, construction, comparison and pickling."""

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
    """The settings of a plug-in under test.

    Args:
        settings: the hyper-parameters.
        refused: an invalid value of every hyper-parameter; the error must be "<name> must be ... got <value>".
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, Any] = field(default_factory=dict)


class PluginConformance:
    """Base class of the suites: the parametrization by ``cases``, and the tests of any frozen dataclass."""

    cases: ClassVar[Mapping[str, Any]] = {}

    @staticmethod
    def registered(name: str) -> type[Any]:
        """Return the class of this name."""
        raise NotImplementedError

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        """Run the suite once for every case."""
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", list(cls.cases), scope="class")

    @pytest.fixture
    def case(self, name: str) -> Any:
        """Return the case under test."""
        return self.cases[name]

    @pytest.fixture
    def kind(self, name: str) -> type[Any]:
        """Return the class under test, from the registry."""
        return self.registered(name.split("/", maxsplit=1)[0])

    @pytest.fixture
    def plugin(self, kind: type[Any], case: PluginCase) -> Any:
        """Return the attack or defence under test."""
        return kind(**case.settings)

    def test_is_a_frozen_dataclass_that_shows_its_parameters(
        self, name: str, kind: type[Any], plugin: Any
    ) -> None:
        """Its name is that of the registry, ``repr`` shows its hyper-parameters, and they cannot be changed."""
        assert type(plugin) is kind
        assert plugin.name == name.split("/", maxsplit=1)[0]
        for own in fields(plugin):
            assert f"{own.name}={getattr(plugin, own.name)!r}" in repr(plugin)
            with pytest.raises(FrozenInstanceError):
                setattr(plugin, own.name, None)

    def test_same_settings_are_equal(self, kind: type[Any], plugin: Any, case: PluginCase) -> None:
        """Equal settings give equal objects and hashes, by which the store finds finished trials."""
        assert plugin == kind(**case.settings)
        assert hash(plugin) == hash(kind(**case.settings))

    def test_survives_the_way_to_another_process(self, plugin: Any) -> None:
        """It can be pickled, because trials run in worker processes."""
        there = pickle.loads(pickle.dumps(plugin))
        assert there == plugin
        assert type(there) is type(plugin)
        assert hash(there) == hash(plugin)
        assert copy.copy(plugin) == plugin

    def test_refuses_what_is_out_of_range(self, kind: type[Any], plugin: Any, case: PluginCase) -> None:
        """The constructor rejects invalid values, and the message names the hyper-parameter and the value."""
        names = {own.name for own in fields(plugin)}
        assert set(case.refused) == names, "set a refused value for every field"
        for own, value in case.refused.items():
            with pytest.raises(ValueError, match=rf"{own} must be .* got {re.escape(repr(value))}"):
                kind(**{**case.settings, own: value})
