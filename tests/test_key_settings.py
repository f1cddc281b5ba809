"""A setting that is newer than stored results leaves their keys as they are, unless it is used."""

from __future__ import annotations

import dataclasses

import pytest

from dpmi.attacks.priors import WganGP
from dpmi.defenses import Augmentation, Recipe
from dpmi.key_settings import LATER, described, without_later

RECIPE = Recipe(steps=3, learning_rate=0.1)
USED = {
    "average": "tail",
    "weight_decay": 1e-4,
    "warm_up": 1,
    "augmentation": (Augmentation("RandomHorizontalFlip"),),
    "precision": "bf16",
}


def test_the_defaults_of_later_settings_are_what_earlier_versions_did() -> None:
    known = {f.name: f.default for f in dataclasses.fields(Recipe) if f.name in LATER}
    assert known == {name: LATER[name] for name in known}
    assert not LATER.keys() & without_later(dataclasses.asdict(RECIPE)).keys()


@pytest.mark.parametrize("name", USED)
def test_a_later_setting_that_is_used_is_part_of_the_key(name: str) -> None:
    other = dataclasses.replace(RECIPE, **{name: USED[name]})
    assert without_later(dataclasses.asdict(other))[name]
    assert described(other) != described(RECIPE)


def test_a_dataclass_is_described_as_before_it_had_the_setting() -> None:
    """Keys of attacks have the repr of their priors."""
    prior = WganGP(steps=7)
    shown = {f.name: getattr(prior, f.name) for f in dataclasses.fields(prior) if f.name != "precision"}
    assert described(prior) == f"WganGP({', '.join(f'{k}={v!r}' for k, v in shown.items())})"
    assert "precision='bf16'" in described(dataclasses.replace(prior, precision="bf16"))
    assert described(3.5) == "3.5"
    assert described(WganGP) == repr(WganGP)
