"""The least noise of a target, with every sampler."""

from __future__ import annotations

import pytest

from accountants import (
    Adjacency,
    BallsInBins,
    BucketMechanism,
    FixedNumber,
    Ledger,
    TruncatedPoisson,
    calibrate,
    least_noise,
)
from accountants.mechanism import Mechanism, steps_of

FIXED = FixedNumber(units=60, drawn=6, noise_multiplier=1)
TRUNCATED = TruncatedPoisson(units=60, sampling_rate=0.1, most=9, noise_multiplier=1)
PASS = BallsInBins(steps_per_pass=10, noise_multiplier=1)


@pytest.mark.parametrize(
    ("mechanism", "adjacency"),
    [
        (FIXED, "replace"),
        (TRUNCATED, "replace"),
        (TRUNCATED, "add_remove"),
        (PASS, "replace"),
        (PASS, "add_remove"),
    ],
)
def test_the_target_is_met_and_used_up(mechanism: Mechanism, adjacency: Adjacency) -> None:
    found = least_noise(mechanism, target_epsilon=4, delta=1e-4, unit="user", steps=50, adjacency=adjacency)
    run = Ledger().record(found, 50 // steps_of(found))
    assert run.steps == 50
    assert 3.98 <= run.guarantee(delta=1e-4, unit="user", adjacency=adjacency).epsilon <= 4
    assert type(found) is type(mechanism)


def test_for_poisson_sampling_it_is_the_calibrated_noise() -> None:
    step = BucketMechanism(sampling_rate=0.1, noise_multiplier=1)
    found = least_noise(step, target_epsilon=2, delta=1e-4, unit="user", steps=30)
    expected = calibrate(target_epsilon=2, delta=1e-4, unit="user", sampling_rate=0.1, steps=30)
    assert found.noise_multiplier == pytest.approx(expected.mechanism.noise_multiplier, rel=3e-3)


def test_a_wrong_request_is_refused() -> None:
    with pytest.raises(ValueError, match="target_epsilon must be above 0, got 0"):
        least_noise(FIXED, target_epsilon=0, delta=1e-4, unit="user", steps=10)
    with pytest.raises(ValueError, match="'add_remove' is not defined for buckets drawn in fixed number"):
        least_noise(FIXED, target_epsilon=1, delta=1e-4, unit="user", steps=10, adjacency="add_remove")
    with pytest.raises(ValueError, match="steps must be a multiple of 10, the steps of a pass, got 15"):
        least_noise(PASS, target_epsilon=1, delta=1e-4, unit="user", steps=15)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        least_noise(FIXED, target_epsilon=1, delta=1e-4, unit="user", steps=0)
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1\)"):
        least_noise(FIXED, target_epsilon=1, delta=0, unit="user", steps=1)
