"""A rule is registered for every function of its names."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.privacy.isolation import rules
from dpmi.privacy.isolation.labels import PUBLIC, Label
from dpmi.privacy.isolation.rules import Call, Rule, rule


def unchanged(call: Call) -> Label:
    return call.labels[0]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[object, Rule]:
    """An empty registry."""
    empty: dict[object, Rule] = {}
    monkeypatch.setattr(rules, "RULES", empty)
    return empty


def test_a_name_stands_for_the_functions_of_every_namespace(registered: dict[object, Rule]) -> None:
    assert rule("relu", "softmax")(unchanged) is unchanged
    expected = {torch.relu, F.relu, Tensor.relu, torch.softmax, F.softmax, Tensor.softmax}
    assert expected <= registered.keys()
    assert set(registered.values()) == {unchanged}


def test_an_operator_is_that_of_tensors_alone(registered: dict[object, Rule]) -> None:
    rule("__eq__")(unchanged)
    assert list(registered) == [Tensor.__eq__]


@pytest.mark.usefixtures("registered")
def test_a_misspelt_name_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no_such_function"):
        rule("relu", "no_such_function")(unchanged)


def test_a_call_has_the_name_of_its_function() -> None:
    def named(func: object) -> str:
        return Call(func, (), {}, [], [PUBLIC], 1).name  # type: ignore[arg-type]

    assert named(F.linear) == "linear"
    assert named(Tensor.add_) == "add_"
    assert named(partial(F.linear)).startswith("functools.partial(")
