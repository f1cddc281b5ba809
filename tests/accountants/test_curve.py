"""Epsilon after every step: the same numbers as one run at a time, in one pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from accountants import ADJACENCIES, Adjacency, epsilon, epsilon_curve
from accountants.curve import STATED_ERROR


def curve(steps: Any, q: float = 0.2, sigma: float = 1.6, **changed: Any) -> Any:
    request: dict[str, Any] = {"delta": 1e-3, "unit": "class", **changed}
    return epsilon_curve(steps, sampling_rate=q, noise_multiplier=sigma, **request)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(
    ("q", "sigma", "delta"),
    [(0.2, 1.6, 1e-3), pytest.param(0.01, 1.0, 1e-5, marks=pytest.mark.slow), (0.33, 0.8, 1e-2)],
)
def test_it_is_the_epsilon_of_every_single_run_from_above(
    q: float, sigma: float, delta: float, adjacency: Adjacency
) -> None:
    found = curve(range(1, 1001), q, sigma, delta=delta, adjacency=adjacency)
    for steps in (1, 2, 128, 129, 256, 257, 777, 1000):
        single = epsilon(
            sampling_rate=q,
            noise_multiplier=sigma,
            steps=steps,
            delta=delta,
            unit="class",
            adjacency=adjacency,
        )
        here = found.epsilon[steps - 1]
        # The single run has a finer interval, but is itself up to its rounding above the exact value.
        assert single.epsilon * (1 - 1e-3) <= here <= single.epsilon * (1 + STATED_ERROR), steps


def test_the_published_values_lie_on_it() -> None:
    assert curve([137, 200], 0.2, 3.0).epsilon[0] == pytest.approx(5.440, rel=STATED_ERROR)
    assert curve([200]).epsilon[0] == pytest.approx(15.924, rel=STATED_ERROR)


def test_it_never_falls_and_names_what_it_is_of() -> None:
    found = curve(range(0, 3000, 7))
    assert found.epsilon[0] == 0
    assert (np.diff(found.epsilon) >= 0).all()
    assert found.steps.tolist() == list(range(0, 3000, 7))
    assert (found.delta, found.unit, found.adjacency, found.accountant) == (1e-3, "class", "replace", "tight")


def test_the_steps_asked_for_do_not_change_the_answer_beyond_its_error() -> None:
    assert curve([500]).epsilon[0] == pytest.approx(curve(range(1, 2001)).epsilon[499], rel=STATED_ERROR)


@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
def test_no_noise_costs_everything_from_the_first_step_on() -> None:
    assert curve([0, 1, 2], sigma=0.0).epsilon.tolist() == [0.0, math.inf, math.inf]
    assert curve([0]).epsilon.tolist() == [0.0]


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        ([], TypeError, "steps must be a list of at least one integer"),
        ([1.5], TypeError, "steps must be a list of at least one integer"),
        ([[1]], TypeError, r"got shape \(1, 1\)"),
        ([-1, 2], ValueError, "steps must be at least 0 and strictly ascending"),
        ([2, 2], ValueError, "strictly ascending"),
    ],
)
def test_wrong_steps(steps: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        curve(steps)


def test_more_steps_than_float64_resolves_are_refused() -> None:
    with pytest.raises(ValueError, match=r"delta must be at least 2e-10 for 1000000 steps"):
        curve([10**6], delta=1e-10)
