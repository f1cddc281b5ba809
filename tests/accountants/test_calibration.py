"""Calibration: what is found meets the target, uses it up, and is refused where there is nothing to find."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from accountants import ADJACENCIES, Adjacency, calibrate, epsilon
from accountants.calibration import SHORT_OF_TARGET, _largest

RUN: dict[str, Any] = {"sampling_rate": 0.2, "noise_multiplier": 1.6, "steps": 200}


def solve(missing: str, target: float, adjacency: Adjacency = "replace", **changed: Any) -> Any:
    given = {name: value for name, value in {**RUN, **changed}.items() if name != missing}
    return calibrate(**{"delta": 1e-3, **given}, target_epsilon=target, unit="class", adjacency=adjacency)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("missing", ["noise_multiplier", "sampling_rate", "steps"])
def test_the_target_of_a_known_run_gives_the_run_back(missing: str, adjacency: Adjacency) -> None:
    known = {"replace": 15.924, "add_remove": 7.448}[adjacency]  # accounting values published with the paper
    found = solve(missing, known, adjacency)
    value = found.steps if missing == "steps" else getattr(found.mechanism, missing)
    assert value == pytest.approx(RUN[missing], rel=5e-3)
    assert known * (1 - 5e-3) < found.guarantee.epsilon <= known
    assert (found.solved_for, found.guarantee.accountant) == (missing, "tight")


@pytest.mark.parametrize(("target", "delta"), [(0.5, 1e-5), (3.0, 1e-8)])
def test_without_sampling_it_is_the_noise_of_the_analytic_gaussian_mechanism(
    target: float, delta: float
) -> None:
    def excess(shift: float) -> float:  # Balle, Wang 2018, Thm 8
        return float(
            norm.cdf(shift / 2 - target / shift)
            - math.exp(target) * norm.cdf(-shift / 2 - target / shift)
            - delta
        )

    exact = 2 / float(brentq(excess, 1e-3, 10, xtol=1e-12))  # replacing moves the sum by two clip norms
    found = calibrate(target_epsilon=target, delta=delta, unit="class", sampling_rate=1.0, steps=1)
    assert exact <= found.mechanism.noise_multiplier <= exact * (1 + 5e-3)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("missing", ["noise_multiplier", "sampling_rate", "steps"])
def test_units_of_several_buckets_get_their_own_target(missing: str, adjacency: Adjacency) -> None:
    found = solve(missing, 6.0, adjacency, buckets_per_unit=3, noise_multiplier=4.0)
    again = epsilon(
        sampling_rate=found.mechanism.sampling_rate,
        noise_multiplier=found.mechanism.noise_multiplier,
        steps=found.steps,
        delta=1e-3,
        unit="class",
        adjacency=adjacency,
        buckets_per_unit=3,
    )
    assert again == found.guarantee
    assert 6.0 * (1 - (0.05 if missing == "steps" else 5e-3)) < again.epsilon <= 6.0
    assert "at most 3 of the separately sampled buckets" in found.guarantee.caveats[0]


def test_without_sampling_k_buckets_need_k_times_the_noise() -> None:
    one, three = (
        solve("noise_multiplier", 2.0, sampling_rate=1.0, buckets_per_unit=k).mechanism.noise_multiplier
        for k in (1, 3)
    )
    assert three == pytest.approx(3 * one, rel=5e-3)


def test_one_more_step_would_exceed_the_target() -> None:
    found = solve("steps", 5.0, noise_multiplier=3.0)
    after = epsilon(sampling_rate=0.2, noise_multiplier=3.0, steps=found.steps + 1, delta=1e-3, unit="class")
    assert found.guarantee.epsilon <= 5.0 < after.epsilon


@settings(max_examples=5, deadline=None)
@given(
    missing=st.sampled_from(["noise_multiplier", "sampling_rate"]),
    target=st.floats(0.3, 40),
    exponent=st.floats(-8, -2),
    run=st.fixed_dictionaries(
        {
            "sampling_rate": st.floats(1e-3, 0.9),
            "noise_multiplier": st.floats(0.5, 8),
            "steps": st.integers(1, 3000),
        }
    ),
)
@example(  # the answer is a sampling rate next to 1
    missing="sampling_rate",
    target=37.0,
    exponent=-5.0,
    run={"sampling_rate": 0.5, "noise_multiplier": 7.25, "steps": 385},
)
def test_it_never_exceeds_the_target_and_comes_close_to_it(
    missing: str, target: float, exponent: float, run: dict[str, Any]
) -> None:
    found = solve(missing, target, **run, delta=10.0**exponent)
    again = epsilon(
        sampling_rate=found.mechanism.sampling_rate,
        noise_multiplier=found.mechanism.noise_multiplier,
        steps=found.steps,
        delta=10.0**exponent,
        unit="class",
    )
    assert again.epsilon == found.guarantee.epsilon <= target
    if found.mechanism.sampling_rate < 1:
        assert found.guarantee.epsilon >= target * (1 - 2 * SHORT_OF_TARGET)


def test_an_epsilon_that_jumps_ends_below_the_target() -> None:
    """Corrections by the exact epsilon assume that it rises with a power; here they go round in circles."""

    def exact(value: float) -> float:
        return value if value <= 0.99 else 5 * value

    found = _largest(lambda value: value, exact, 1.0, 1e-3, 1e3, start=0.5)
    assert found is not None
    assert 0.98 < found <= 0.99


def test_a_target_that_any_sampling_rate_meets_gives_all_of_it() -> None:
    assert solve("sampling_rate", 1e4).mechanism.sampling_rate == 1


@pytest.mark.parametrize(
    ("missing", "target", "changed", "message"),
    [
        (
            "steps",
            0.1,
            {},
            r"target_epsilon = 0.1 cannot be met: a single step already costs epsilon 0.\d+. Raise",
        ),
        (
            "steps",
            1e6,
            {"noise_multiplier": 100.0, "delta": 1e-10},
            r"even 500000 steps, the most supported at delta = 1e-10, cost less",
        ),
        ("noise_multiplier", 1e7, {"steps": 1}, r"already met at the smallest noise_multiplier tried, 0.01"),
        ("noise_multiplier", 1e-9, {"delta": 1e-10}, r"cannot be met with a noise_multiplier up to 1e\+06"),
    ],
)
def test_where_there_is_no_answer_it_says_so(
    missing: str, target: float, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        solve(missing, target, **changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_epsilon": 0.0}, "target_epsilon must be above 0, got 0.0"),
        ({"target_epsilon": math.inf}, "target_epsilon must be finite, got inf"),
        ({"steps": None}, "leave out exactly one of noise_multiplier, steps and sampling_rate"),
        (
            {"noise_multiplier": 1.0},
            r"exactly one .*; got noise_multiplier = 1.0, steps = 200, sampling_rate",
        ),
        ({"delta": 1.0}, r"delta must be in \(0, 1\), got 1.0"),
        ({"delta": 1e-11}, "delta must be at least 1e-10 for the tight accountant, got 1e-11"),
        ({"sampling_rate": -0.1}, r"sampling_rate must be in \(0, 1\], got -0.1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"unit": ""}, "unit must say what one bucket is"),
        ({"buckets_per_unit": 0}, "buckets_per_unit must be at least 1, got 0"),
        ({"buckets_per_unit": 3, "buckets": 2}, "buckets_per_unit must be at most 2, the number of buckets"),
        ({"adjacency": "swap"}, "adjacency must be one of replace, add_remove, got 'swap'"),
        (
            {"noise_multiplier": 0.0, "steps": None},
            "noise_multiplier must be at least 0.001 to meet a target",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {
        "target_epsilon": 5.0,
        "delta": 1e-3,
        "unit": "class",
        "sampling_rate": 0.2,
        "steps": 200,
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        calibrate(**request)
