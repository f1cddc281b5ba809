"""The sharp estimate: its ceiling, its confidence, and what it needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dpmi.privacy.audit.aligned import LENGTH, NOISE, RATE, Measured, expected
from dpmi.privacy.finding import Estimate


def simulated(seed: int, *, canaries: int, sampling_rate: float, sigma: float, steps: int) -> Measured:
    """An ideal run whose canaries are all in."""
    generator = np.random.default_rng(seed)
    pairs = int(generator.binomial(canaries * steps, sampling_rate))
    freedom = 20 * canaries * steps
    return Measured(
        steps=steps,
        squares=sigma**2 * float(generator.chisquare(freedom)),
        freedom=freedom,
        contributions=pairs + sigma * math.sqrt(pairs) * float(generator.normal()),
        pairs=pairs,
        draws=pairs,
        chances=canaries * steps,
    )


@pytest.mark.parametrize(
    ("canaries", "sigma", "claim", "least"),
    [(1000, 0.6, 8.0, 7.3), (1000, 1.08, 4.0, 3.5), (100, 0.6, 8.0, 5.5)],
)
def test_of_one_release_is_what_the_specification_asks_for(
    canaries: int, sigma: float, claim: float, least: float
) -> None:
    found = [
        simulated(seed, canaries=canaries, sampling_rate=1.0, sigma=sigma, steps=1).estimate(0.95)
        for seed in range(5)
    ]
    bounds = [estimate.epsilon(1e-5, "add_remove") for estimate in found]
    assert least <= np.median(bounds) <= claim + 0.01


def test_limits_hold_together_in_their_share_of_runs() -> None:
    wrong = 0
    for seed in range(400):
        estimate = simulated(seed, canaries=50, sampling_rate=0.3, sigma=1.0, steps=10).estimate(0.9)
        wrong += estimate.sampling_rate > 0.3 and estimate.noise_multiplier < 1.0
        assert 0 < estimate.sampling_rate < 0.5
    assert wrong <= stats.binom.ppf(0.999, 400, 0.1)


def test_each_limit_is_that_of_its_law() -> None:
    measured = Measured(
        steps=2, squares=900.0, freedom=1000, contributions=40.0, pairs=50, draws=60, chances=200
    )
    estimate = measured.estimate(0.8)
    sigma = math.sqrt(900.0 / stats.chi2.ppf(0.02, 1000))
    length = 0.8 + stats.norm.ppf(0.13) * sigma / math.sqrt(50)
    assert estimate.noise_multiplier == pytest.approx(sigma / length)
    assert stats.binom.sf(59, 200, estimate.sampling_rate) == pytest.approx(0.05)
    assert estimate.steps == 2


def test_the_shares_are_the_whole_error() -> None:
    assert pytest.approx(1.0) == NOISE + LENGTH + RATE


def test_without_a_contribution_nothing_is_bounded() -> None:
    nothing = Measured(steps=1, squares=10.0, freedom=10, contributions=0.0, pairs=0, draws=0, chances=5)
    assert nothing.estimate(0.95) == Estimate(
        sampling_rate=0.0,
        noise_multiplier=pytest.approx(math.sqrt(10 / stats.chi2.ppf(0.005, 10))),
        steps=1,
    )
    assert nothing.estimate(0.95).epsilon(1e-5, "replace") == 0.0


def test_the_expected_run_has_the_claimed_parameters() -> None:
    perfect = expected(canaries=40, dimensions=1000, sampling_rate=0.25, noise_multiplier=2.0, steps=100)
    assert math.sqrt(perfect.squares / perfect.freedom) == pytest.approx(2.0)
    assert perfect.contributions / perfect.pairs == 1.0
    assert perfect.draws / perfect.chances == 0.25
    assert perfect.pairs == 0.75 * perfect.draws
    estimate = perfect.estimate(0.95)
    assert estimate.sampling_rate < 0.25
    assert estimate.noise_multiplier > 2.0
