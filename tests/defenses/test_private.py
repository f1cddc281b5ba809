"""What each of the private defences promises besides the contract."""

from __future__ import annotations

import math

import pytest

from dpmi.data import Split
from dpmi.defenses import ClassDP, Recipe, RecordDP, SubclassDP

from .conftest import fit

PRIVATE = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "max_grad_norm": 1.0}


def test_units_and_numbers_of_buckets(split: Split) -> None:
    recipe = Recipe(steps=2, learning_rate=0.1)
    found = {}
    for defense in (ClassDP(**PRIVATE), SubclassDP(**PRIVATE, clusters_per_class=4), RecordDP(**PRIVATE)):
        account = fit(defense, split.train, recipe=recipe).account
        assert account is not None
        found[account.unit] = account.buckets
    assert found == {"class": 10, "subclass": 40, "record": 1197}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("sampling_rate", 0.0),
        ("sampling_rate", math.nan),
        ("max_grad_norm", -1.0),
        ("max_grad_norm", math.inf),
        ("max_grad_norm", math.nan),
        ("delta", 0.0),
        ("delta", math.nan),
    ],
)
def test_ends_of_the_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .* got {value}"):
        ClassDP(**{**PRIVATE, field: value})
