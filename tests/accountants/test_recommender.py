"""The recommender: its numbers from closed forms, and a head that learns with them."""

from __future__ import annotations

import math

import pytest

from accountants import epsilon
from accountants.recommender import HOPELESS, Recommendation, fewest_units, recommend


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
@pytest.mark.parametrize("target", [0.5, 3.0])
def test_the_target_is_met_and_used_up(target: float, adjacency: str) -> None:
    found = recommend(units=600, target_epsilon=target, delta=1e-5, unit="user", adjacency=adjacency)  # type: ignore[arg-type]
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
    found = recommend(units=600, target_epsilon=1.0, delta=1e-5)
    nu = found.noise_multiplier / 600 / math.sqrt(found.steps)
    assert found.noise == pytest.approx(nu)
    # Every step is learning_rate x max_grad_norm long at most.
    assert found.learning_rate * found.max_grad_norm * found.steps == pytest.approx(0.5 / nu)
    many = recommend(units=6000, target_epsilon=1.0, delta=1e-5)
    assert many.noise_multiplier == found.noise_multiplier
    way = many.learning_rate * many.max_grad_norm * many.steps
    assert way == pytest.approx(5.5 / math.sqrt(nu / 10))
    assert way < 0.5 / (nu / 10)
    assert found.sampling_rate == 1


def test_it_says_what_is_hopeless_and_how_many_units_would_do() -> None:
    few = recommend(units=20, target_epsilon=1.0, delta=1e-3)
    assert few.hopeless
    enough = fewest_units(target_epsilon=1.0, delta=1e-3)
    assert not recommend(units=enough, target_epsilon=1.0, delta=1e-3).hopeless
    assert recommend(units=enough - 1, target_epsilon=1.0, delta=1e-3).hopeless
    assert fewest_units(target_epsilon=1.0, delta=1e-3, noise=HOPELESS / 2) in (2 * enough, 2 * enough - 1)


def test_its_json() -> None:
    found = recommend(units=600, target_epsilon=1.0, delta=1e-5, unit="user")
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
    ],
)
def test_wrong_arguments(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(**{"units": 600, "target_epsilon": 1.0, "delta": 1e-5, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise must be above 0"):
        fewest_units(target_epsilon=1.0, delta=1e-5, noise=0.0)
