import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import Ledger, epsilon
from accountants.lemma3 import lemma2_epsilon, log_moment, rdp_epsilon
from accountants.mechanism import BucketMechanism


def brute_force(kappa: float, numerator: Any, denominator: Any, span: tuple[float, float]) -> float:
    """Log E_{z ~ denominator} (numerator / denominator)^(kappa + 1) by a dense Riemann sum in float64."""
    z, step = np.linspace(*span, 100_001, retstep=True)
    log_terms = (kappa + 1) * numerator(z) - kappa * denominator(z)
    top = log_terms.max()
    return float(top + math.log(np.exp(log_terms - top).sum() * step))


def log_mixture(mean: float, q: float, sigma: float) -> Any:
    def log_density(z: Any) -> Any:
        terms = np.logaddexp(
            math.log1p(-q) - z * z / (2 * sigma**2), math.log(q) - (z - mean) ** 2 / (2 * sigma**2)
        )
        return terms - math.log(sigma * math.sqrt(2 * math.pi))

    return log_density


def log_gaussian(sigma: float) -> Any:
    return lambda z: -z * z / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))


def span(kappa: float, sigma: float) -> tuple[float, float]:
    return -2 * kappa - 2 - 15 * sigma, 2 * kappa + 2 + 15 * sigma


PAIRS = [(0.001, 0.5), (0.01, 1.0), (0.2, 1.6), (0.33, 0.8), (0.9, 3.0), (0.999, 0.5), (0.2, 8.0), (0.2, 0.2)]
ORDERS = [0.01, 0.1, 0.5, 0.99, 1.0, 1.5, 2.0, 5.0, 7.3, 32.0, 32.5]


@pytest.mark.parametrize("kappa", ORDERS)
@pytest.mark.parametrize(("q", "sigma"), PAIRS)
def test_log_moment_is_the_integral_it_claims_to_be(q: float, sigma: float, kappa: float) -> None:
    exact = brute_force(kappa, log_mixture(2, q, sigma), log_gaussian(sigma), span(kappa, sigma))
    assert log_moment(kappa, sampling_rate=q, noise_multiplier=sigma) == pytest.approx(
        exact, rel=1e-12, abs=1e-14
    )


@pytest.mark.parametrize("kappa", [0.1, 1.0, 5.5, 32.0])
@pytest.mark.parametrize(("q", "sigma"), [(0.001, 0.5), (0.01, 1.0), (0.2, 1.6), (0.33, 0.8), (0.9, 8.0)])
def test_it_is_the_larger_direction_and_bounds_the_replaced_pair(
    q: float, sigma: float, kappa: float
) -> None:
    alpha = log_moment(kappa, sampling_rate=q, noise_multiplier=sigma) + 1e-10
    wide = span(kappa, sigma)
    assert alpha >= brute_force(kappa, log_gaussian(sigma), log_mixture(2, q, sigma), wide)
    assert alpha >= brute_force(kappa, log_mixture(-1, q, sigma), log_mixture(1, q, sigma), wide)


@pytest.mark.parametrize("kappa", [1.0, 2.0, 17.0, 300.0])
@pytest.mark.parametrize("sigma", [0.03, 0.0501, 0.3, 1.6, 50.0])
def test_integer_and_real_orders_meet(kappa: float, sigma: float) -> None:
    """The binomial sum, the integral and the separated form are one function of the order."""
    below, at, above = (
        log_moment(order, sampling_rate=0.2, noise_multiplier=sigma)
        for order in (kappa * (1 - 1e-9), kappa, kappa * (1 + 1e-9))
    )
    assert below == pytest.approx(at, rel=1e-8, abs=1e-12)
    assert above == pytest.approx(at, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("kappa", [1e-3, 0.3, 1.5])
@pytest.mark.parametrize("q", [1e-6, 0.2, 0.999])
def test_nothing_jumps_where_the_two_gaussians_are_called_separate(q: float, kappa: float) -> None:
    inside, outside = (
        log_moment(kappa, sampling_rate=q, noise_multiplier=2 / distance)
        for distance in (40 - 1e-9, 40 + 1e-9)
    )
    assert inside == pytest.approx(outside, rel=1e-8, abs=1e-13)


def test_without_sampling_it_is_the_gaussian_moment() -> None:
    assert log_moment(1.5, sampling_rate=1, noise_multiplier=4.0) == pytest.approx(1.5 * 2.5 * 4 / (2 * 16))
    assert log_moment(1.5, sampling_rate=1 - 1e-12, noise_multiplier=4.0) == pytest.approx(1.5 * 2.5 / 8)
    assert log_moment(1.5, sampling_rate=0.5, noise_multiplier=0) == math.inf


@pytest.mark.parametrize("adjacency_factor", [1.0, 2.0])
@pytest.mark.parametrize(("q", "sigma"), [(0.2, 1.6), (0.01, 1.0)])
def test_it_is_the_renyi_divergence_of_removing_a_bucket_at_half_the_noise(
    q: float, sigma: float, adjacency_factor: float
) -> None:
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    noise, steps, delta = adjacency_factor * sigma, 100, 1e-5
    for order in (2, 3, 8, 16):
        peer = RdpAccountant([order], NeighboringRelation.ADD_OR_REMOVE_ONE)
        peer.compose(PoissonSampledDpEvent(q, GaussianDpEvent(noise / 2)), steps)
        total = steps * log_moment(order - 1, sampling_rate=q, noise_multiplier=noise)
        assert rdp_epsilon(total, order - 1, delta=delta) == pytest.approx(peer.get_epsilon(delta), rel=1e-9)


@pytest.mark.parametrize(("q", "sigma", "steps"), [(0.2, 1.6, 200), (0.01, 1.0, 1000)])
def test_added_or_removed_is_the_classical_moments_accountant(q: float, sigma: float, steps: int) -> None:
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    peer = RdpAccountant(np.linspace(1.1, 40, 1500), NeighboringRelation.ADD_OR_REMOVE_ONE)
    peer.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps)
    own = epsilon(
        sampling_rate=q,
        noise_multiplier=sigma,
        steps=steps,
        delta=1e-5,
        unit="class",
        adjacency="add_remove",
        accountant="lemma3",
    )
    # Between integers the peer drops the signs of its series, which is an upper bound on the moment.
    assert own.epsilon <= peer.get_epsilon(1e-5)
    assert own.epsilon == pytest.approx(peer.get_epsilon(1e-5), rel=0.02)
    assert own.caveats == ()


def test_known_values_of_the_papers_first_mnist_setting() -> None:
    delta = 1e-3
    totals = {k: 200 * log_moment(k, sampling_rate=0.2, noise_multiplier=1.6) for k in range(1, 65)}
    assert min(lemma2_epsilon(a, k, delta=delta) for k, a in totals.items()) == pytest.approx(
        35.00, abs=0.005
    )
    answer = epsilon(
        sampling_rate=0.2, noise_multiplier=1.6, steps=200, delta=delta, unit="subclass", accountant="lemma3"
    )
    assert 15.924 < answer.epsilon <= 28.36
    assert "not proved" in answer.caveats[0]


def test_the_grid_of_orders_finds_the_best_one() -> None:
    """Weak noise wants orders far below one, strong noise orders in the hundreds."""
    for q, sigma, steps in [(0.2, 0.1, 1000), (0.33, 0.8, 307), (0.01, 8.0, 100)]:
        orders = np.geomspace(1e-4, 3000, 700)
        best = min(
            rdp_epsilon(
                steps * log_moment(float(k), sampling_rate=q, noise_multiplier=sigma), float(k), delta=1e-5
            )
            for k in orders
        )
        own = epsilon(
            sampling_rate=q,
            noise_multiplier=sigma,
            steps=steps,
            delta=1e-5,
            unit="class",
            accountant="lemma3",
        )
        assert own.epsilon <= best * (1 + 1e-4)


@given(total=st.floats(0, 1e4), kappa=st.floats(1e-4, 1e3), delta=st.floats(1e-12, 0.5))
def test_the_conversion_used_is_never_above_lemma_2(total: float, kappa: float, delta: float) -> None:
    assert 0 <= rdp_epsilon(total, kappa, delta=delta) <= lemma2_epsilon(total, kappa, delta=delta)


@settings(max_examples=50, deadline=None)
@given(q=st.floats(1e-4, 0.999), sigma=st.floats(0.1, 20), kappa=st.floats(0.01, 50))
def test_log_moment_is_monotone_and_convex_in_the_order(q: float, sigma: float, kappa: float) -> None:
    def alpha(order: float, rate: float = q, noise: float = sigma) -> float:
        return log_moment(order, sampling_rate=rate, noise_multiplier=noise)

    slack = 1e-11 * (1 + alpha(2 * kappa))
    assert alpha(kappa, noise=1.1 * sigma) <= alpha(kappa) + slack
    assert alpha(kappa, rate=0.9 * q) <= alpha(kappa) + slack
    slopes = [alpha(kappa), alpha(1.5 * kappa) / 1.5, alpha(2 * kappa) / 2]
    assert all(a <= b + slack for a, b in pairwise(slopes))


def test_different_steps_add_their_moments() -> None:
    a = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    b = BucketMechanism(sampling_rate=0.1, noise_multiplier=3.0)
    both = Ledger(((a, 100), (b, 50))).guarantee(delta=1e-3, unit="class", accountant="lemma3").epsilon
    alone = Ledger(((a, 100),)).guarantee(delta=1e-3, unit="class", accountant="lemma3").epsilon
    doubled = Ledger(((a, 150),)).guarantee(delta=1e-3, unit="class", accountant="lemma3").epsilon
    assert alone < both < doubled


@pytest.mark.parametrize("kappa", [0, -1, math.nan, True])
def test_the_order_must_be_positive(kappa: float) -> None:
    with pytest.raises((TypeError, ValueError), match="kappa must be"):
        log_moment(kappa, sampling_rate=0.2, noise_multiplier=1.0)


def test_the_papers_bound_on_the_moment_is_below_the_moment() -> None:
    """Lemma 3 of the paper allows this order and claims 0.0136; the pair it speaks of has 1.3698."""
    q, sigma, kappa = 0.02, 1.2, 3
    assert q < 1 / (16 * sigma)
    assert kappa <= sigma**2 * math.log(1 / (q * sigma))
    assert 4 * q**2 * kappa * (kappa + 1) / ((1 - q) * sigma**2) == pytest.approx(0.0136, abs=5e-5)
    assert log_moment(kappa, sampling_rate=q, noise_multiplier=sigma) == pytest.approx(1.3698, abs=5e-5)


@pytest.mark.parametrize("sigma", [1e-149, 1e-153, 1e-160, 1e-308, 5e-324])
@pytest.mark.parametrize("kappa", [0.5, 1.0, 3.0])
def test_next_to_no_noise_is_never_taken_for_privacy(kappa: float, sigma: float) -> None:
    assert log_moment(kappa, sampling_rate=0.2, noise_multiplier=sigma) > 1e200
