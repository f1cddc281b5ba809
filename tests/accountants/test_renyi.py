"""Renyi divergences against closed forms, the binomial sum of the class-DP paper, and arbitrary precision."""

import math

import mpmath
import numpy as np
import pytest

from accountants import (
    BallsInBins,
    BucketMechanism,
    FixedNumber,
    Ledger,
    PrivacyFilter,
    Tries,
    TruncatedPoisson,
    explain_ledger,
    lemma3,
    renyi,
)
from accountants.guarantee import Adjacency
from accountants.mechanism import Mechanism, SeveralBuckets


def mechanism(q: float, sigma: float, owned: int = 1) -> BucketMechanism:
    if owned == 1:
        return BucketMechanism(sampling_rate=q, noise_multiplier=sigma)
    return SeveralBuckets(sampling_rate=q, noise_multiplier=sigma, buckets_per_unit=owned)


@pytest.mark.parametrize(("adjacency", "distance"), [("replace", 2), ("add_remove", 1)])
@pytest.mark.parametrize("owned", [1, 4])
@pytest.mark.parametrize("order", [1.01, 2.0, 17.3, 400.0])
def test_without_sampling_it_is_that_of_two_gaussians(
    adjacency: Adjacency, distance: int, owned: int, order: float
) -> None:
    found = renyi.divergence(mechanism(1.0, 3.0, owned), adjacency, order)
    assert found == pytest.approx(order * (distance * owned / 3.0) ** 2 / 2, rel=1e-10, abs=2e-11)


@pytest.mark.parametrize("q", [0.001, 0.2, 0.7])
@pytest.mark.parametrize("sigma", [0.4, 1.6, 9.0])
@pytest.mark.parametrize("order", [2, 5, 40])
def test_of_a_removal_it_is_the_binomial_sum(q: float, sigma: float, order: int) -> None:
    # Its means are 2 apart, so a distance of 1 is the same pair at twice the noise.
    expected = lemma3.log_moment(order - 1, sampling_rate=q, noise_multiplier=2 * sigma) / (order - 1)
    found = renyi.divergence(mechanism(q, sigma), "add_remove", float(order))
    assert found == pytest.approx(expected, rel=1e-9, abs=2e-13)


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
@pytest.mark.parametrize(
    ("q", "sigma", "owned", "order"),
    [(0.2, 1.6, 1, 2.5), (0.05, 0.7, 3, 1.5), (0.3, 5.0, 5, 12.0)],
)
def test_against_arbitrary_precision(
    adjacency: Adjacency, q: float, sigma: float, owned: int, order: float
) -> None:
    weights = [
        math.comb(owned, j) * mpmath.mpf(q) ** j * mpmath.mpf(1 - q) ** (owned - j) for j in range(owned + 1)
    ]

    def density(x: mpmath.mpf, sign: int) -> mpmath.mpf:
        return mpmath.fsum(w * mpmath.npdf(x, sign * j, sigma) for j, w in enumerate(weights))

    def divergence(p: int, q_: int) -> float:
        ends = mpmath.linspace(-2 * order * owned - 12 * sigma, 2 * order * owned + 12 * sigma, 20)
        integral = mpmath.quad(lambda x: density(x, p) ** order * density(x, q_) ** (1 - order), ends)
        return float(mpmath.log(integral) / (order - 1))

    directions = [(1, -1)] if adjacency == "replace" else [(1, 0), (0, 1)]
    with mpmath.workdps(17):
        expected = max(divergence(*signs) for signs in directions)
    assert renyi.divergence(mechanism(q, sigma, owned), adjacency, order) == pytest.approx(expected, rel=1e-8)


def test_divergences_add_up() -> None:
    first, second = mechanism(0.2, 3.0), mechanism(0.1, 2.0)
    one = renyi.divergences({first: 3}, "replace")
    both = renyi.divergences({first: 3, second: 5}, "replace")
    np.testing.assert_allclose(both - one, renyi.divergences({second: 5}, "replace"), rtol=1e-10)
    np.testing.assert_array_equal(renyi.divergences({}, "replace"), 0)


def test_without_noise_it_is_infinite() -> None:
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        step = mechanism(0.1, 0.0)
    assert renyi.divergence(step, "replace", 2.0) == math.inf


def test_a_step_that_float64_cannot_resolve_is_not_free() -> None:
    assert renyi.divergence(mechanism(1e-9, 1e6), "replace", 1.5) > 0


def test_an_integral_too_large_to_compute_is_infinite_not_wrong() -> None:
    assert renyi.divergence(mechanism(0.5, 1e-4), "replace", 2.0) == math.inf


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
@pytest.mark.parametrize("owned", [1, 3])
def test_epsilon_is_above_the_tight_one_and_near_it(adjacency: Adjacency, owned: int) -> None:
    ledger = Ledger().record(mechanism(0.1, 6.0), 300)
    tight = ledger.guarantee(delta=1e-5, unit="user", adjacency=adjacency, buckets_per_unit=owned).epsilon
    each = 300 * np.array([renyi.divergence(mechanism(0.1, 6.0, owned), adjacency, a) for a in renyi.ORDERS])
    found = renyi.epsilon(each, renyi.ORDERS, 1e-5).min()
    assert tight < found < 1.25 * tight


def test_a_budget_is_the_divergence_that_gives_its_epsilon() -> None:
    budgets = renyi.budget(3.0, renyi.ORDERS, 1e-5)
    possible = budgets > 0
    assert possible.any()
    np.testing.assert_allclose(renyi.epsilon(budgets, renyi.ORDERS, 1e-5)[possible], 3.0)
    kappa = renyi.ORDERS[-1] - 1
    assert renyi.epsilon(0.2, renyi.ORDERS[-1], 1e-5) == pytest.approx(
        lemma3.rdp_epsilon(0.2 * kappa, kappa, delta=1e-5)
    )


@pytest.mark.parametrize(
    "other",
    [
        FixedNumber(units=10, drawn=2, noise_multiplier=3),
        TruncatedPoisson(units=10, sampling_rate=0.2, most=4, noise_multiplier=3),
        BallsInBins(steps_per_pass=5, noise_multiplier=3),
    ],
)
def test_other_draws_are_refused(other: Mechanism) -> None:
    ledger = Ledger().record(other)
    with pytest.raises(ValueError, match="searches and filters cover Poisson sampling only"):
        Tries(mean=3).guarantee(ledger, delta=1e-5, unit="user")
    with pytest.raises(ValueError, match="searches and filters cover Poisson sampling only"):
        PrivacyFilter.planned(other, target_epsilon=50, delta=1e-3)
    with pytest.raises(ValueError, match="explain covers Poisson sampling only"):
        explain_ledger(ledger, delta=1e-5, unit="user")
