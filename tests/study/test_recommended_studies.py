"""The studies that say that their settings are the recommender's have these settings.

Modules: accountants/recommender.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accountants import Adjacency, recommend
from dpmi.study.spec import load_toml

STUDIES = Path(__file__).parents[2] / "studies"

Targets = tuple[tuple[float, Adjacency], ...]
USERS: Targets = tuple((epsilon, "replace") for epsilon in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0))
USERS_AND_3: Targets = (*USERS[:4], (3.0, "replace"), *USERS[4:])
OF_OTHERS: Targets = ((3.0, "add_remove"),)
"""That of F. Tramer and D. Boneh, "Differentially Private Learning Needs Better Features (or Much More Data)", 2021."""

FACES: tuple[tuple[int, float, float, Adjacency], ...] = (
    (160, 1e-3, 3.0, "add_remove"),
    (160, 1e-3, 8.0, "add_remove"),
    (40, 1e-3, 8.0, "replace"),
    *((20, 1e-2, epsilon, "replace") for epsilon in (3.0, 8.0, 30.0)),
)
"""Units, delta, epsilon and adjacency of the study with three kinds of units."""

CASES: dict[str, tuple[int, float, int, float, Targets]] = {
    **{
        f"useful-{name}-{units}": (
            units,
            60_000 / units,
            10,
            1e-5,
            {600: USERS_AND_3, 60_000: USERS + OF_OTHERS}.get(units, USERS),
        )
        for name in ("mnist", "fashion")
        for units in (100, 600, 6_000, 60_000)
    },
    "useful-subclass": (500, 1, 10, 1e-3, ((3.0, "replace"), (8.0, "replace"))),
    "useful-omniglot": (
        120,
        30,
        242,
        1e-3,
        tuple((epsilon, "replace") for epsilon in (1.0, 3.0, 8.0, 30.0, 100.0)),
    ),
    "useful-att": (320, 1, 40, 1e-3, tuple((epsilon, "add_remove") for epsilon in (1.0, 3.0, 8.0))),
}


def defenses_of(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    study = load_toml((STUDIES / f"{name}.toml").read_text())
    return study["training"], [defense for defense in study["defenses"] if defense["name"] != "none"]


def check(
    settings: dict[str, Any],
    training: dict[str, Any],
    *,
    units: int,
    records: float,
    classes: int,
    delta: float,
    epsilon: float,
    adjacency: Adjacency,
) -> None:
    found = recommend(
        units=units,
        records_per_unit=records,
        classes=classes,
        target_epsilon=epsilon,
        delta=delta,
        adjacency=adjacency,
    )
    assert settings["delta"] == delta
    assert settings["sampling_rate"] == found.sampling_rate
    assert settings["noise_multiplier"] == pytest.approx(found.noise_multiplier, rel=1e-5)
    assert settings["max_grad_norm"] == pytest.approx(found.max_grad_norm, rel=1e-2)
    own = {**training, **settings["training"]}
    assert own["steps"] == found.steps
    assert own["momentum"] == 0
    length = own["learning_rate"] * settings["max_grad_norm"]
    assert length == pytest.approx(found.learning_rate * found.max_grad_norm, rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_settings_are_those_of_the_rule(name: str) -> None:
    units, records, classes, delta, targets = CASES[name]
    training, private = defenses_of(name)
    for settings, (epsilon, adjacency) in zip(private[-len(targets) :], targets, strict=True):
        check(
            settings,
            training,
            units=units,
            records=records,
            classes=classes,
            delta=delta,
            epsilon=epsilon,
            adjacency=adjacency,
        )


def test_settings_for_faces_are_those_of_the_rule() -> None:
    training, private = defenses_of("useful-faces")
    for settings, (units, delta, epsilon, adjacency) in zip(private, FACES, strict=True):
        check(
            settings,
            training,
            units=units,
            records=1,
            classes=20,
            delta=delta,
            epsilon=epsilon,
            adjacency=adjacency,
        )
