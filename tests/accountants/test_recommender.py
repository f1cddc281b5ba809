"""The recommender: its numbers from closed forms, and a head that learns with them."""

from __future__ import annotations

import math

import pytest

from accountants import epsilon
from accountants.recommender import HOPELESS, Recommendation, norm_for, recommend

HEAD = {"records_per_unit": 100, "classes": 10}


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
@pytest.mark.parametrize("target", [0.5, 3.0])
def test_the_target_is_met_and_used_up(target: float, adjacency: str) -> None:
    found = recommend(units=600, **HEAD, target_epsilon=target, delta=1e-5, unit="user", adjacency=adjacency)  # type: ignore[arg-type]
    again = epsilon(
        sampling_rate=found.sampling_rate,
        noise_multiplier=found.noise_multiplier,
        steps=found.steps,
        delta=1e-5,
        unit="user",
        adjacency=adjacency,  # type: ignore[arg-type]
    )
    assert 0.99 * target < again.epsilon <= target
    assert found.guarantee == again


def test_the_rule() -> None:
    found = recommend(units=600, **HEAD, target_epsilon=1.0, delta=1e-5)
    nu = found.noise_multiplier / 600 / math.sqrt(found.steps)
    assert found.noise == pytest.approx(nu)
    # Every step is learning_rate x max_grad_norm long at most.
    assert found.learning_rate * found.max_grad_norm * found.steps == pytest.approx(0.5 / nu)
    many = recommend(units=6000, **HEAD, target_epsilon=1.0, delta=1e-5)
    assert many.noise_multiplier == found.noise_multiplier
    way = many.learning_rate * many.max_grad_norm * many.steps
    assert way == pytest.approx(5.5 / math.sqrt(nu / 10))
    assert way < 0.5 / (nu / 10)
    assert found.sampling_rate == 1
    # Every one of 242 rows goes as far as one of 10, while the noise allows it.
    rows = recommend(units=6000, records_per_unit=100, classes=242, target_epsilon=1.0, delta=1e-5)
    assert rows.learning_rate * rows.max_grad_norm * rows.steps == pytest.approx(min(24.2**0.5 * way, 5 / nu))
    assert 5 / nu < 24.2**0.5 * way
    forty = recommend(units=6000, records_per_unit=100, classes=40, target_epsilon=1.0, delta=1e-5)
    assert forty.learning_rate == pytest.approx(2 * many.learning_rate)


def test_the_norm_follows_the_records_of_a_unit() -> None:
    assert recommend(units=600, **HEAD, target_epsilon=1.0, delta=1e-5).max_grad_norm == 0.05
    assert norm_for(1) == 0.5
    assert norm_for(4) == 0.25


def test_it_says_what_is_hopeless_and_how_many_units_would_do() -> None:
    few = recommend(units=20, **HEAD, target_epsilon=1.0, delta=1e-3)
    assert few.hopeless
    enough = few.fewest_units
    assert not recommend(units=enough, **HEAD, target_epsilon=1.0, delta=1e-3).hopeless
    assert recommend(units=enough - 1, **HEAD, target_epsilon=1.0, delta=1e-3).hopeless
    assert few.noise > HOPELESS


def test_its_json() -> None:
    found = recommend(units=600, **HEAD, target_epsilon=1.0, delta=1e-5, unit="user")
    fields = found.to_dict()
    assert fields["unit"] == "user"
    assert fields["learning_rate"] == found.learning_rate
    assert fields["hopeless"] is False
    assert isinstance(found, Recommendation)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"units": 1}, "units must be at least 2"),
        ({"target_epsilon": 0.0}, "target_epsilon must be above 0"),
        ({"delta": 1.0}, r"delta must be in \(0, 1\)"),
        ({"adjacency": "both"}, "adjacency"),
        ({"classes": 1}, "classes must be at least 2"),
        ({"records_per_unit": 0.5}, "records_per_unit must be at least 1, got 0.5"),
        ({"records_per_unit": math.nan}, "records_per_unit"),
    ],
)
def test_wrong_arguments(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(**{"units": 600, **HEAD, "target_epsilon": 1.0, "delta": 1e-5, **wrong})  # type: ignore[arg-type]
