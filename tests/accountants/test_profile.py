"""delta(epsilon), the trade-off function and the reconstruction bound, against closed forms and Monte Carlo."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from accountants import (
    ADJACENCIES,
    Adjacency,
    BucketMechanism,
    Ledger,
    PrivacyProfile,
    reconstruction_bound,
)

BOUNDS = [
    # q, sigma, T, B(.1), B(.01); an independent computation, confirmed by Monte Carlo to 0.004
    (0.2, 1.6, 200, 0.717, 0.331),
    (0.2, 3.0, 137, 0.315, 0.0645),
    (0.2, 3.65, 148, 0.273, 0.0503),
    (0.01, 1.0, 1000, 0.194, 0.0291),
    (0.1, 2.0, 1000, 0.646, 0.256),
]


def ledger_of(q: float, sigma: float, steps: int) -> Ledger:
    return Ledger().record(BucketMechanism(sampling_rate=q, noise_multiplier=sigma), steps)


@pytest.mark.parametrize(("q", "sigma", "steps", "tenth", "hundredth"), BOUNDS)
def test_the_published_bounds(q: float, sigma: float, steps: int, tenth: float, hundredth: float) -> None:
    found = reconstruction_bound(ledger_of(q, sigma, steps), [0.1, 0.01])
    assert found == pytest.approx([tenth, hundredth], rel=2e-3)


@pytest.mark.parametrize(
    ("q", "sigma", "steps"), [(0.2, 3.0, 137), pytest.param(0.01, 1.0, 1000, marks=pytest.mark.slow)]
)
def test_the_bound_is_what_the_best_attack_reaches_by_monte_carlo(q: float, sigma: float, steps: int) -> None:
    # The best event at level kappa is a large likelihood ratio (Neyman, Pearson).
    draws, generator = 40_000, np.random.default_rng(3)

    def loss(present: bool) -> Any:
        total = np.zeros(draws)
        for _ in range(steps):
            z = sigma * generator.standard_normal(draws)
            if present:
                z += generator.random(draws) < q
            total += np.log1p(q * np.expm1((2 * z - 1) / (2 * sigma * sigma)))
        return total

    without, with_bucket = loss(False), loss(True)
    for kappa in (0.01, 0.1, 0.5):
        power = float((with_bucket > np.quantile(without, 1 - kappa)).mean())
        bound = float(reconstruction_bound(ledger_of(q, sigma, steps), kappa))
        assert bound == pytest.approx(power, abs=0.012)


@pytest.mark.parametrize(("adjacency", "shift"), [("replace", 2.0), ("add_remove", 1.0)])
def test_without_sampling_everything_is_that_of_the_gaussian_mechanism(
    adjacency: Adjacency, shift: float
) -> None:
    sigma, steps = 8.0, 9
    mu = shift * math.sqrt(steps) / sigma
    profile = PrivacyProfile(ledger=ledger_of(1.0, sigma, steps), unit="class", adjacency=adjacency)
    eps = np.array([0.0, 0.3, 1.0, 2.5])
    exact = norm.cdf(mu / 2 - eps / mu) - np.exp(eps) * norm.cdf(-mu / 2 - eps / mu)
    assert profile.delta(eps) == pytest.approx(exact, rel=2e-3)
    assert (profile.delta(eps) >= exact * (1 - 1e-9)).all()
    alpha = np.array([0.0, 1e-3, 0.05, 0.3, 0.7, 1.0])
    # Dong, Roth, Su 2022, eq. (7)
    gaussian = norm.cdf(norm.ppf(1 - alpha) - mu)
    assert profile.trade_off(alpha) == pytest.approx(gaussian, abs=1e-4)
    assert (profile.trade_off(alpha) <= gaussian + 1e-12).all()
    if adjacency == "add_remove":
        bound = reconstruction_bound(ledger_of(1.0, sigma, steps), alpha)
        assert bound == pytest.approx(1 - gaussian, abs=1e-4)
        assert (bound >= 1 - gaussian - 1e-12).all()


@pytest.mark.parametrize("owned", [1, 3])
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_a_guarantee_is_a_point_of_the_profile(adjacency: Adjacency, owned: int) -> None:
    run = ledger_of(0.2, 1.6, 200)
    found = run.guarantee(delta=1e-3, unit="class", adjacency=adjacency, buckets_per_unit=owned)
    profile = PrivacyProfile(ledger=run, unit="class", adjacency=adjacency, buckets_per_unit=owned)
    assert float(profile.delta(found.epsilon)) == pytest.approx(1e-3, rel=5e-3)


@pytest.mark.parametrize(("q", "sigma", "owned"), [(0.3, 1.0, 3), (0.1, 2.0, 2), (1.0, 4.0, 2)])
def test_the_bound_of_a_unit_of_several_buckets_is_that_of_the_best_test(
    q: float, sigma: float, owned: int
) -> None:
    """Of one step, the likelihood ratio rises with x, so the best test of size kappa is a threshold."""
    kappa = np.array([0.001, 0.05, 0.3, 0.8])
    drawn = np.arange(owned + 1)[:, np.newaxis]
    exact = (binom.pmf(drawn, owned, q) * norm.cdf(norm.ppf(kappa) + drawn / sigma)).sum(0)
    found = reconstruction_bound(ledger_of(q, sigma, 1), kappa, buckets_per_unit=owned)
    assert found == pytest.approx(exact, rel=2e-3)
    assert (found >= exact * (1 - 1e-9)).all()


def test_shapes_are_kept() -> None:
    run = ledger_of(0.2, 1.6, 20)
    profile = PrivacyProfile(ledger=run, unit="class")
    assert profile.delta([[0.1, math.inf]]).shape == profile.trade_off([[0.1, 1.0]]).shape == (1, 2)
    assert reconstruction_bound(run, 0.1).shape == ()
    assert profile.delta(math.inf) < 1e-9


def test_a_bound_grows_with_the_prior_and_is_never_below_it() -> None:
    kappa = np.linspace(0, 1, 201)
    for run in (ledger_of(0.2, 1.6, 200), ledger_of(0.01, 5.0, 10)):
        found = reconstruction_bound(run, kappa)
        assert (np.diff(found) >= 0).all()
        assert (found >= kappa).all()
        assert found[-1] == 1


def test_no_steps_tell_nothing() -> None:
    profile = PrivacyProfile(ledger=Ledger(), unit="class")
    assert profile.delta([0.0, 1.0]).tolist() == [0, 0]
    assert profile.trade_off([0.0, 0.25, 1.0]).tolist() == [1, 0.75, 0]
    assert reconstruction_bound(Ledger(), [0.0, 0.3]).tolist() == [0, 0.3]


@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
def test_no_noise_tells_everything() -> None:
    profile = PrivacyProfile(ledger=ledger_of(0.2, 0.0, 1), unit="class")
    assert profile.delta([0.0, 9.0]).tolist() == [1, 1]
    assert profile.trade_off([0.0, 0.25]).tolist() == [0, 0]
    assert reconstruction_bound(ledger_of(0.2, 0.0, 1), [0.0, 0.3]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.delta(-0.1), ValueError, r"epsilons must be in \[0, inf\], got -0.1"),
        (lambda p: p.delta([0.1, math.nan]), ValueError, r"epsilons must be in \[0, inf\], got nan"),
        (lambda p: p.trade_off(1.1), ValueError, r"type_one_errors must be in \[0, 1\], got 1.1"),
        (
            lambda p: reconstruction_bound(p.ledger, [0.1, 2.0]),
            ValueError,
            r"priors must be in \[0, 1\], got 2.0",
        ),
        (lambda p: p.delta("many"), TypeError, "epsilons must be real numbers, got 'many'"),
    ],
)
def test_wrong_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(PrivacyProfile(ledger=ledger_of(0.2, 1.6, 5), unit="class"))


def test_a_profile_names_its_unit_and_adjacency() -> None:
    run = ledger_of(0.2, 1.6, 5)
    with pytest.raises(ValueError, match="unit must say what one bucket is"):
        PrivacyProfile(ledger=run, unit=" ")
    with pytest.raises(ValueError, match="adjacency must be one of replace, add_remove, got 'both'"):
        PrivacyProfile(ledger=run, unit="class", adjacency="both")  # type: ignore[arg-type]


MU_RUNS = [(0.01, 1.0, 1000), (0.2, 1.6, 200), (0.33, 0.8, 300), (0.5, 0.05, 100), (1e-5, 10.0, 10)]


def of_gaussian(mu: float, epsilons: Any) -> Any:
    """Return delta of a Gaussian mechanism, from the published formula in another arrangement than the product's."""
    lower = norm.logsf(epsilons / mu + mu / 2) + epsilons
    return norm.sf(epsilons / mu - mu / 2) - np.exp(lower)


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
@pytest.mark.parametrize("owned", [1, 3])
@pytest.mark.parametrize(("sigma", "steps"), [(4.0, 4), (0.5, 1), (30.0, 900)])
def test_without_sampling_mu_is_exact(adjacency: Any, owned: int, sigma: float, steps: int) -> None:
    run = Ledger().record(BucketMechanism(sampling_rate=1, noise_multiplier=sigma), steps)
    exact = owned * math.sqrt(steps) / sigma * (2 if adjacency == "replace" else 1)
    found = PrivacyProfile(ledger=run, unit="user", adjacency=adjacency, buckets_per_unit=owned).mu
    assert exact < found < 1.003 * exact


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
@pytest.mark.parametrize(("q", "sigma", "steps"), MU_RUNS)
def test_mu_covers_the_profile_and_no_smaller_one_does(
    adjacency: Any, q: float, sigma: float, steps: int
) -> None:
    run = Ledger().record(BucketMechanism(sampling_rate=q, noise_multiplier=sigma), steps)
    profile = PrivacyProfile(ledger=run, unit="user", adjacency=adjacency)
    # Between the product's epsilons, too.
    largest = profile._composition.epsilon(1e-10)
    epsilons = np.sort(np.random.default_rng(0).uniform(0, 1.1 * largest, 200))
    slack = 1e-10 + 1e-12
    assert (profile.delta(epsilons) <= of_gaussian(profile.mu, epsilons) + slack).all()
    assert (profile.delta(epsilons) > of_gaussian(0.97 * profile.mu, epsilons) + slack).any()


def test_the_trade_off_is_above_that_of_mu() -> None:
    run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200)
    profile = PrivacyProfile(ledger=run, unit="subclass")
    alpha = np.array([1e-6, 1e-3, 0.1, 0.5, 0.9])
    # The product's trade-off is piecewise linear, and slightly below the exact one.
    assert (profile.trade_off(alpha) >= norm.cdf(norm.isf(alpha) - profile.mu) - 1e-4).all()


def test_mu_of_nothing_and_of_everything() -> None:
    assert PrivacyProfile(ledger=Ledger(), unit="class").mu == 0
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        bare = Ledger().record(BucketMechanism(sampling_rate=0.1, noise_multiplier=0))
    assert PrivacyProfile(ledger=bare, unit="class").mu == math.inf


def test_mu_is_infinite_where_float64_cannot_resolve_its_failure() -> None:
    run = Ledger().record(BucketMechanism(sampling_rate=1, noise_multiplier=30_000), 1_100_000)
    assert PrivacyProfile(ledger=run, unit="class").mu == math.inf
