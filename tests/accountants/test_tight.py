import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from accountants import ADJACENCIES, BucketMechanism, Ledger, epsilon, pld, tight
from accountants.guarantee import Adjacency

PUBLISHED = [
    # q, sigma, T, delta, tight replace, tight add/remove; an independent computation, intervals 1e-4 and 1e-3
    (0.2, 1.6, 200, 1e-3, 15.924, 7.448),
    (0.2, 3.0, 137, 1e-3, 5.440, 2.452),
    (0.2, 3.65, 148, 1e-3, 4.466, 1.994),
    (0.33, 0.8, 307, 1e-2, 112.53, 56.32),
    (0.33, 1.6, 524, 1e-2, 61.50, 23.40),
    (0.01, 1.0, 1000, 1e-5, 2.843, 1.828),
    (0.1, 2.0, 1000, 1e-5, 17.685, 8.279),
]


def cost(q: float, sigma: float, steps: int, delta: float, adjacency: Adjacency = "replace") -> float:
    return epsilon(
        sampling_rate=q, noise_multiplier=sigma, steps=steps, delta=delta, unit="class", adjacency=adjacency
    ).epsilon


def ledger_of(q: float, sigma: float, steps: int) -> Ledger:
    return Ledger().record(BucketMechanism(sampling_rate=q, noise_multiplier=sigma), steps)


@pytest.mark.parametrize("row", PUBLISHED)
def test_known_values(row: tuple[float, float, int, float, float, float]) -> None:
    q, sigma, steps, delta, replace, add_remove = row
    # Within the last digit of the table.
    assert cost(q, sigma, steps, delta) == pytest.approx(replace, abs=1e-3, rel=1e-4)
    assert cost(q, sigma, steps, delta, "add_remove") == pytest.approx(add_remove, abs=1e-3, rel=1e-4)


def gaussian_delta(eps: float, shift: float) -> float:
    """Delta of N(shift, 1) against N(0, 1) (Balle, Wang 2018, Thm 8)."""
    return float(norm.cdf(shift / 2 - eps / shift) - math.exp(eps) * norm.cdf(-shift / 2 - eps / shift))


@pytest.mark.parametrize(("sigma", "steps", "delta"), [(2.0, 1, 1e-5), (2.0, 1, 1e-10), (20.0, 100, 1e-5)])
@pytest.mark.parametrize(("adjacency", "sensitivity"), [("replace", 2), ("add_remove", 1)])
def test_without_sampling_it_is_the_gaussian_mechanism_with_the_shift_of_the_adjacency(
    sigma: float, steps: int, delta: float, adjacency: Adjacency, sensitivity: int
) -> None:
    shift = sensitivity * math.sqrt(steps) / sigma
    exact = float(brentq(lambda eps: gaussian_delta(eps, shift) - delta, 0, 100, xtol=1e-12))
    assert exact * (1 - 1e-6) <= cost(1.0, sigma, steps, delta, adjacency) <= exact * (1 + 2e-3)


def mixture(mean: float, q: float, sigma: float, z: float) -> float:
    return float((1 - q) * norm.pdf(z, 0, sigma) + q * norm.pdf(z, mean, sigma))


def step_delta(eps: float, q: float, sigma: float, adjacency: Adjacency) -> float:
    """Delta of one step by quadrature of [upper - e^eps lower]_+, the worse of the two directions."""

    def hockey_stick(upper: tuple[float, float], lower: tuple[float, float]) -> float:
        def positive_part(z: float) -> float:
            return max(0.0, mixture(*upper, sigma, z) - math.exp(eps) * mixture(*lower, sigma, z))

        edges = np.linspace(-1 - 12 * sigma, 1 + 12 * sigma, 80)
        return sum(quad(positive_part, a, b, limit=200)[0] for a, b in pairwise(edges))

    if adjacency == "replace":
        return hockey_stick((-1.0, q), (1.0, q))
    return max(hockey_stick((1.0, q), (0.0, 0.0)), hockey_stick((0.0, 0.0), (1.0, q)))


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(
    ("q", "sigma", "eps"),
    [(0.2, 1.6, 0.5), (0.33, 0.8, 2.0), pytest.param(0.7, 1.0, 1.0, marks=pytest.mark.slow)],
)
def test_one_step_agrees_with_quadrature_of_its_pair(
    q: float, sigma: float, eps: float, adjacency: Adjacency
) -> None:
    delta = step_delta(eps, q, sigma, adjacency)
    assert 1e-4 < delta < 0.5
    assert cost(q, sigma, 1, delta, adjacency) == pytest.approx(eps, rel=1e-3)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_many_steps_agree_with_monte_carlo_on_the_privacy_loss(adjacency: Adjacency) -> None:
    q, sigma, steps, delta, draws = 0.2, 3.0, 137, 1e-2, 40_000
    eps = cost(q, sigma, steps, delta, adjacency)
    generator = np.random.default_rng(20)
    means = (
        (-1.0, 1.0) if adjacency == "replace" else (1.0, 0.0)
    )  # the worse direction is bucket against none
    present = generator.random((draws, steps)) < q
    z = means[0] * present + sigma * generator.standard_normal((draws, steps))

    def log_density(mean: float) -> Any:
        return np.log((1 - q) * norm.pdf(z, 0, sigma) + q * norm.pdf(z, mean, sigma))

    loss = (log_density(means[0]) - log_density(means[1])).sum(axis=1)
    excess = np.maximum(0.0, -np.expm1(eps - loss))
    assert float(excess.mean()) == pytest.approx(delta, abs=5 * float(excess.std()) / math.sqrt(draws))


def test_the_interval_is_said() -> None:
    answer = ledger_of(0.2, 1.6, 200).guarantee(delta=1e-3, unit="class")
    assert answer.caveats == ("an upper bound: privacy losses are rounded to multiples of 0.002",)


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta"),
    [
        (0.01, 1.0, 100_000, 1e-5),
        (0.2, 3.0, 137, 1e-3),
        pytest.param(1e-3, 1.0, 20_000, 1e-6, marks=pytest.mark.slow),
    ],
)
def test_the_error_stated_holds_against_an_eight_times_finer_interval(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    totals = ledger_of(q, sigma, steps).totals
    finest = pld.compose(totals, adjacency="replace", interval=pld.fine_interval(totals, "replace") / 8)
    assert finest is not None
    exact = finest.epsilon(delta)
    assert exact * (1 - 1e-5) <= cost(q, sigma, steps, delta) <= exact * (1 + tight.STATED_ERROR)


def test_many_steps_of_a_tiny_sampling_rate_are_the_gaussian_of_their_central_limit() -> None:
    # mu = q sqrt(T (e^(1/sigma^2) - 1)) (Bu, Dong, Long, Su 2020); exact in the limit of small q and large T.
    q, sigma, steps, delta = 1e-5, 2.0, 400_000, 1e-5
    mu = q * math.sqrt(steps * math.expm1(1 / sigma**2))
    limit = float(brentq(lambda eps: gaussian_delta(eps, mu) - delta, 0, 1, xtol=1e-12))
    assert limit < 0.02
    assert cost(q, sigma, steps, delta, "add_remove") == pytest.approx(limit, rel=0.02)


def test_steps_finer_than_float64_resolves_are_said_to_be_loose_and_still_below_the_moments() -> None:
    step = BucketMechanism(sampling_rate=1e-6, noise_multiplier=1.0)
    answer = Ledger().record(step, 10**6).guarantee(delta=1e-9, unit="user")
    assert "still coarse for such small steps" in answer.caveats[0]
    moments = Ledger().record(step, 10**6).guarantee(delta=1e-9, unit="user", accountant="lemma3")
    # mu of the replaced pair is twice that of the central limit, whose epsilon is below mu (sqrt(2 ln(1/delta)) + 1).
    assert 0.0099 < answer.epsilon < moments.epsilon


def test_runs_compose_in_any_order() -> None:
    a = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    b = BucketMechanism(sampling_rate=0.1, noise_multiplier=3.0)
    grouped = Ledger(((a, 100), (b, 50))).guarantee(delta=1e-3, unit="class").epsilon
    mixed = Ledger(((b, 20), (a, 100), (b, 30))).guarantee(delta=1e-3, unit="class").epsilon
    assert mixed == pytest.approx(grouped, rel=1e-9)
    assert cost(0.2, 1.6, 100, 1e-3) < grouped < cost(0.2, 1.6, 150, 1e-3)


def test_delta_down_to_its_limit_and_not_below() -> None:
    assert cost(0.2, 1.6, 200, 1e-3) < cost(0.2, 1.6, 200, 1e-10) < math.inf
    with pytest.raises(ValueError, match=r"delta must be at least 1e-10 .*lemma3"):
        cost(0.2, 1.6, 200, 9e-11)


def test_more_steps_than_float64_resolves_are_refused_with_the_delta_that_would_do() -> None:
    with pytest.raises(ValueError, match=r"delta must be at least 2e-08 .*raise delta"):
        cost(0.001, 10.0, 10**8, 1e-8)


def test_infinity_from_the_engine_is_an_error_not_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pld.LossDistribution, "epsilon", lambda self, delta: math.inf)
    with pytest.raises(ValueError, match=r"too small for the tight accountant to resolve .*raise delta"):
        cost(0.21, 1.6, 200, 1e-10)  # of no other test, because results are remembered


def test_extreme_noise() -> None:
    with pytest.raises(ValueError, match=r"noise_multiplier must be at least 0.001 .*lemma3"):
        cost(0.2, 9e-4, 1, 1e-5)
    # One bucket present at almost no noise: the loss is about shift^2 / (2 sigma^2).
    assert cost(0.2, 1e-3, 1, 1e-5, "add_remove") == pytest.approx(0.5e6, rel=0.02)
    assert cost(0.2, 1e200, 1000, 1e-5) == 0


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("q", [5e-324, 1e-13])
@pytest.mark.parametrize("sigma", [1.0, 1e9])
def test_whatever_the_sampling_rate_it_is_an_upper_bound_and_no_more_than_at_a_larger_one(
    q: float, sigma: float, adjacency: Adjacency
) -> None:
    """Drawn at all with probability T q at most, which is less than delta here: the truth is 0."""
    assert 0 <= cost(q, sigma, 1000, 1e-6, adjacency) <= cost(1e-9, sigma, 1000, 1e-6, adjacency) == 0


def test_epsilons_whose_exponential_is_subnormal() -> None:
    """From 709 to 745 dp-accounting's own answer is infinity; ours joins both sides."""
    noises = (0.2, 0.215, 0.22, 0.2215, 0.2236, 0.2255, 0.23, 0.25)
    found = [
        epsilon(sampling_rate=0.2, noise_multiplier=s, steps=250, delta=1e-5, unit="record").epsilon
        for s in noises
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 745
    assert found[-1] < 709
    assert any(709 < value < 745 for value in found)
    # epsilon goes nearly with the inverse square of the noise here.
    scaled = [value * s**2 for value, s in zip(found, noises, strict=True)]
    assert max(scaled) / min(scaled) < 1.04


def test_a_delta_next_to_one_costs_nothing() -> None:
    assert cost(0.2, 0.05, 200, 1 - 1e-12) < cost(0.2, 0.05, 200, 1e-3)
    assert cost(0.2, 1.6, 1, 0.999) == 0


RATES = st.floats(0.02, 0.9)
NOISES = st.floats(0.6, 8.0)
STEPS = st.integers(1, 400)
DELTAS = st.floats(1e-6, 0.1)
# Each answer is within this of the exact value, from above.
SLACK = 1 + tight.STATED_ERROR


@settings(max_examples=4, deadline=None)
@given(q=RATES, sigma=NOISES, steps=STEPS, delta=DELTAS, factor=st.floats(1.05, 2.0))
def test_more_noise_or_delta_costs_less_and_more_steps_or_sampling_more(
    q: float, sigma: float, steps: int, delta: float, factor: float
) -> None:
    assume(q * factor < 1)
    base = cost(q, sigma, steps, delta)
    assert cost(q, sigma * factor, steps, delta) <= base * SLACK
    assert cost(q, sigma, steps, delta * factor) <= base * SLACK
    assert base <= cost(q, sigma, math.ceil(steps * factor), delta) * SLACK
    assert base <= cost(q * factor, sigma, steps, delta) * SLACK


@settings(max_examples=4, deadline=None)
@given(q=RATES, sigma=NOISES, steps=STEPS, delta=DELTAS)
def test_replacing_costs_at_least_removing_and_moments_at_least_the_truth(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    replace, add_remove = cost(q, sigma, steps, delta), cost(q, sigma, steps, delta, "add_remove")
    assert add_remove <= replace * SLACK
    for exact, adjacency in zip((replace, add_remove), ADJACENCIES, strict=True):
        moments = ledger_of(q, sigma, steps).guarantee(
            delta=delta, unit="class", adjacency=adjacency, accountant="lemma3"
        )
        assert exact <= moments.epsilon * SLACK


def test_it_is_never_above_the_moments_where_they_are_proved() -> None:
    """Losses of hundreds of thousands are rounded to whole numbers."""
    run = ledger_of(0.97216, 0.30322, 88_963)
    asked = {"delta": 1.39e-9, "unit": "class", "adjacency": "add_remove"}
    tight, moments = (run.guarantee(**asked, accountant=name) for name in ("tight", "lemma3"))  # type: ignore[arg-type]
    assert tight.epsilon == moments.epsilon
    assert tight.caveats == ("an upper bound: by moments, which are below the rounded losses here",)
    usual = ledger_of(0.2, 1.6, 200).guarantee(delta=1e-3, unit="class", adjacency="add_remove")
    assert usual.epsilon == pytest.approx(7.448, abs=1e-3)
    assert usual.caveats[0].startswith("an upper bound: privacy losses are rounded")
