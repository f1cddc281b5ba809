"""Bounds of one run against JAX Privacy, Monte Carlo and brute force."""

from __future__ import annotations

import importlib.util
import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dpmi.privacy.audit import Scores, clopper_pearson, counted, counted_fdp, game, gaussian, order_statistics
from dpmi.privacy.audit.one_run import gdp_epsilon, gdp_mu, right_among_extremes

BOUNDS = (counted, counted_fdp, gaussian, order_statistics)

#: Canaries, epsilon at delta 1e-5, and JAX Privacy 2.0's three bounds for scores at the quantiles of both laws.
PUBLISHED = [
    (1000, 8.0, (1.820534, 2.618692, 5.667228)),
    (1000, 4.0, (0.838214, 1.141681, 2.186881)),
    (100, 8.0, (0.874937, 1.335461, 2.187903)),
]


def ideal(canaries: int, epsilon: float) -> Scores:
    grid = stats.norm.ppf((np.arange(canaries // 2) + 0.5) / (canaries // 2))
    return Scores(grid + gdp_mu(epsilon, 1e-5), grid)


def drawn(canaries: int, epsilon: float, seed: int) -> Scores:
    generator = np.random.default_rng(seed)
    coins = generator.integers(0, 2, canaries).astype(bool)
    return Scores.of(generator.normal(size=canaries) + gdp_mu(epsilon, 1e-5) * coins, coins)


def jax_privacy() -> ModuleType:
    """Its auditing module alone: the package imports JAX."""
    found = importlib.util.find_spec("jax_privacy")
    if found is None or not found.submodule_search_locations:
        pytest.skip("jax_privacy is not installed")
    path = f"{found.submodule_search_locations[0]}/auditing.py"
    spec = importlib.util.spec_from_file_location("auditing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["auditing"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("canaries", "epsilon", "expected"), PUBLISHED)
def test_bounds_of_ideal_scores_are_those_of_jax_privacy(
    canaries: int, epsilon: float, expected: tuple[float, ...]
) -> None:
    scores = ideal(canaries, epsilon)
    found = [bound(scores, delta=1e-5) for bound in BOUNDS[:3]]
    assert found == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_are_those_of_jax_privacy_on_the_same_scores(seed: int) -> None:
    module = jax_privacy()
    scores = drawn(300, 6.0, seed)
    theirs = module.CanaryScoreAuditor(scores.inside, scores.outside)
    assert counted(scores, delta=1e-5) == pytest.approx(theirs.epsilon_one_run(0.05, 1e-5), abs=1e-6)
    assert counted_fdp(scores, delta=1e-5) == pytest.approx(theirs.epsilon_one_run_fdp(0.05, 1e-5), abs=1e-6)
    assert gaussian(scores, delta=1e-5) == pytest.approx(theirs.epsilon_from_gdp(0.05, 1e-5), abs=2e-6)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_exceeds_the_truth_in_at_most_its_share_of_runs(bound: Any) -> None:
    above = sum(bound(drawn(60, 1.0, seed), delta=1e-5) > 1.0 for seed in range(25))
    assert above <= stats.binom.ppf(0.999, 25, 0.05)


@pytest.mark.parametrize("bound", BOUNDS)
def test_scores_that_tell_nothing_give_zero_and_more_confidence_gives_less(bound: Any) -> None:
    generator = np.random.default_rng(3)
    nothing = Scores(generator.normal(size=40), generator.normal(size=40))
    assert bound(nothing, delta=1e-5) == 0.0
    scores = drawn(200, 8.0, 1)
    assert bound(scores, delta=1e-5, confidence=0.99) < bound(scores, delta=1e-5)


@pytest.mark.parametrize(("mu", "n", "r"), [(1.5, 40, 10), (3.0, 20, 20), (0.5, 30, 3)])
def test_the_law_of_extreme_guesses_is_that_of_simulated_ones(mu: float, n: int, r: int) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(mu / 2, 1.0, (40_000, n))  # by symmetry every coin shows heads
    extreme = np.take_along_axis(values, np.argsort(-np.abs(values), axis=1)[:, :r], axis=1)
    right = (extreme > 0).sum(1)
    for v in (r // 2 + 1, r - 1, r):
        assert right_among_extremes(mu, n, r, v) == pytest.approx((right >= v).mean(), abs=0.01)
    assert right_among_extremes(mu, n, r, 0) == 1.0


@pytest.mark.parametrize("mu", [0.3, 1.0, 4.0])
def test_epsilon_of_gaussian_dp_is_its_closed_form_and_inverse(mu: float) -> None:
    epsilon = gdp_epsilon(mu, 1e-5)
    delta = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)
    assert delta == pytest.approx(1e-5, rel=1e-4)
    assert gdp_mu(epsilon, 1e-5) == pytest.approx(mu, rel=1e-5)
    assert gdp_epsilon(0.0, 1e-5) == 0.0


def test_many_runs_at_one_threshold_by_hand() -> None:
    # 50 of 50 right on both sides: TPR >= p and FPR <= 1 - p with p^50 = 0.05 / 4.
    p = (0.05 / 4) ** (1 / 50)
    found = clopper_pearson(np.ones(50), np.zeros(50), threshold=0.5, delta=0.01)
    assert found == pytest.approx(math.log((p - 0.01) / (1 - p)))
    assert clopper_pearson(np.zeros(50), np.ones(50), threshold=0.5) == 0.0


@pytest.mark.parametrize(
    ("inside", "outside", "text"),
    [
        ([], [1.0], "inside has 0 scores"),
        ([1.0, math.nan], [1.0], "inside holds 1 NaN"),
        ([2.0, 2.0], [2.0], r"all 3 scores are equal \(2\)"),
    ],
)
def test_scores_that_cannot_be_used(inside: list[float], outside: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Scores(np.array(inside), np.array(outside))


@pytest.mark.parametrize(
    ("bound", "options", "text"),
    [
        (counted, {"delta": -0.1}, r"delta must be in \[0, 1\], got -0.1"),
        (gaussian, {"delta": 0}, r"delta must be in \(0, 1\], got 0"),
        (counted_fdp, {"delta": 0.1, "confidence": 0.4}, r"confidence must be in \(0.5, 1\), got 0.4"),
    ],
)
def test_arguments_out_of_range(bound: Any, options: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        bound(drawn(20, 4.0, 0), **options)


def test_a_game_with_known_chance_by_hand() -> None:
    # 40 of 40 won where chance wins 1 in 20: the success rate is at least 0.05^(1/40).
    assert game(40, 40, chance=0.05, delta=0.01) == pytest.approx(math.log((0.05 ** (1 / 40) - 0.01) / 0.05))
    assert game(2, 40, chance=0.05, delta=0.0) == game(0, 40, chance=0.05, delta=0.0) == 0.0


def test_a_game_exceeds_the_truth_in_at_most_its_share_of_runs() -> None:
    epsilon, chance = 1.0, 0.2
    won = np.random.default_rng(0).binomial(30, math.exp(epsilon) * chance, 400)
    above = sum(game(int(w), 30, chance=chance, delta=0.0) > epsilon for w in won)
    assert above <= stats.binom.ppf(0.999, 400, 0.05)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"won": 41}, "won is 41, but there were 40 games"),
        ({"games": 0}, "games must be at least 1, got 0"),
        ({"chance": 0.0}, r"chance must be in \(0, 1\], got 0"),
    ],
)
def test_games_that_cannot_be(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        game(**{"won": 3, "games": 40, "chance": 0.5, "delta": 0.0, **changes})
