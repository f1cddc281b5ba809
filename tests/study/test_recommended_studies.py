"""The studies that say that their settings are the recommender's have these settings.

Modules: accountants/recommender.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from accountants import Adjacency, recommend
from dpmi.study.spec import load_toml

STUDIES = Path(__file__).parents[2] / "studies"


class Target(NamedTuple):
    """What a defence's settings are recommended for."""

    units: int
    records: float
    classes: int
    delta: float
    epsilon: float
    adjacency: Adjacency = "replace"


def of_users(units: int) -> list[Target]:
    """The targets of a study of MNIST or Fashion-MNIST."""
    epsilons = (0.25, 0.5, 1.0, 2.0, *([3.0] if units == 600 else []), 4.0, 8.0)
    found = [Target(units, 60_000 / units, 10, 1e-5, epsilon) for epsilon in epsilons]
    # That of F. Tramer and D. Boneh, "Differentially Private Learning Needs Better Features (or Much More Data)", 2021.
    return [*found, Target(units, 1, 10, 1e-5, 3.0, "add_remove")] if units == 60_000 else found


TARGETS: dict[str, list[Target]] = {
    **{
        f"useful-{name}-{units}": of_users(units)
        for name in ("mnist", "fashion")
        for units in (100, 600, 6_000, 60_000)
    },
    "useful-subclass": [Target(500, 1, 10, 1e-3, epsilon) for epsilon in (3.0, 8.0)],
    "useful-omniglot": [Target(120, 30, 242, 1e-3, epsilon) for epsilon in (1.0, 3.0, 8.0, 30.0, 100.0)],
    **{
        name: [Target(320, 1, 40, 1e-3, epsilon, "add_remove") for epsilon in (1.0, 3.0, 8.0)]
        for name in ("useful-att", "useful-att-faceres")
    },
    "useful-faces": [
        *(Target(160, 1, 20, 1e-3, epsilon, "add_remove") for epsilon in (3.0, 8.0)),
        Target(40, 1, 20, 1e-3, 8.0),
        *(Target(20, 1, 20, 1e-2, epsilon) for epsilon in (3.0, 8.0, 30.0)),
    ],
}


@pytest.mark.parametrize("name", TARGETS)
def test_settings_are_those_of_the_rule(name: str) -> None:
    study = load_toml((STUDIES / f"{name}.toml").read_text())
    private = [defense for defense in study["defenses"] if defense["name"] != "none"]
    targets = TARGETS[name]
    for settings, target in zip(private[-len(targets) :], targets, strict=True):
        found = recommend(
            units=target.units,
            records_per_unit=target.records,
            classes=target.classes,
            target_epsilon=target.epsilon,
            delta=target.delta,
            adjacency=target.adjacency,
        )
        assert settings["delta"] == target.delta
        assert settings["sampling_rate"] == found.sampling_rate
        assert settings["noise_multiplier"] == pytest.approx(found.noise_multiplier, rel=1e-5)
        assert settings["max_grad_norm"] == pytest.approx(found.max_grad_norm, rel=1e-2)
        training = {**study["training"], **settings["training"]}
        assert training["steps"] == found.steps
        assert training["momentum"] == 0
        length = training["learning_rate"] * settings["max_grad_norm"]
        assert length == pytest.approx(found.learning_rate * found.max_grad_norm, rel=1e-3)
