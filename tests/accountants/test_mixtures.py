"""Units of several buckets: published values, brackets without dp-accounting, and dominance by brute force."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_mixture_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from accountants import ADJACENCIES, Adjacency, BucketMechanism, epsilon, mixtures, pld, pmfs
from accountants.mechanism import SeveralBuckets
from accountants.mixtures import Pair, pairs

Numbers = npt.NDArray[np.float64]

PUBLISHED = [
    (0.01, 1.0, 1000, 1e-5, 5, 11.64),
    (0.01, 1.0, 1000, 1e-5, 10, 27.9),
    (0.2, 1.6, 200, 1e-3, 2, 19.21),
    (0.2, 1.6, 200, 1e-3, 3, 34.81),
]


def cost(q: float, sigma: float, steps: int, delta: float, k: int, adjacency: Adjacency) -> float:
    return epsilon(
        sampling_rate=q,
        noise_multiplier=sigma,
        steps=steps,
        delta=delta,
        unit="user",
        adjacency=adjacency,
        buckets_per_unit=k,
    ).epsilon


@pytest.mark.parametrize(("q", "sigma", "steps", "delta", "k", "expected"), PUBLISHED)
def test_values_of_dp_accounting(
    q: float, sigma: float, steps: int, delta: float, k: int, expected: float
) -> None:
    assert cost(q, sigma, steps, delta, k, "add_remove") == pytest.approx(expected, rel=2e-3)
    theirs = from_mixture_gaussian_mechanism(
        sigma, list(range(k + 1)), list(binom.pmf(range(k + 1), k, q)), value_discretization_interval=2**-5
    )
    mechanism = SeveralBuckets(sampling_rate=q, noise_multiplier=sigma, buckets_per_unit=k)
    ours = pld.one_step(mechanism, "add_remove", 2**-5).distribution
    for each in (0.0, 0.5, 2.0, 5.0):
        assert ours.get_delta_for_epsilon(each) == pytest.approx(theirs.get_delta_for_epsilon(each), rel=1e-6)


def hockey_stick(upper: Numbers, lower: Numbers, weights: Numbers, sigma: float, at: float) -> float:
    """By quadrature: the integral of the positive part of p - e^epsilon q, for means (J, d), d = 1 or 2."""
    reach = float(max(np.abs(upper).max(), np.abs(lower).max())) + 9 * sigma
    axis = np.linspace(-reach, reach, 4001 if upper.shape[1] == 1 else 401)
    grids = np.meshgrid(*[axis] * upper.shape[1], indexing="ij")
    points = np.stack([g.ravel() for g in grids], axis=1)

    def density(means: Numbers) -> Numbers:
        found = np.zeros(len(points))
        for weight, mean in zip(weights, means, strict=True):
            found += weight * np.prod(norm.pdf((points - mean) / sigma) / sigma, axis=1)
        return found

    positive = np.maximum(density(upper) - math.exp(at) * density(lower), 0.0)
    return float(positive.sum() * (axis[1] - axis[0]) ** upper.shape[1])


@pytest.mark.parametrize("direction", ["replace", "remove", "add"])
@pytest.mark.parametrize(("q", "sigma", "k"), [(0.3, 1.0, 3), (0.05, 0.6, 2), (1.0, 2.0, 4), (0.9, 0.5, 5)])
def test_delta_is_that_of_a_quadrature(q: float, sigma: float, k: int, direction: str) -> None:
    pair = Pair.of(sampling_rate=q, sigma=sigma, owned=k, direction=direction)
    j = np.arange(k + 1.0)[:, np.newaxis]
    upper, lower = (0 if direction == "add" else -1) * j, (0 if direction == "remove" else 1) * j
    asked = np.array([-2.0, -0.3, 0.0, 0.2, 1.0, 4.0])
    expected = [hockey_stick(upper, lower, binom.pmf(range(k + 1), k, q), sigma, at) for at in asked]
    np.testing.assert_allclose(pair.delta(asked), expected, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    q=st.sampled_from([0.1, 0.4, 0.8]),
    sigma=st.sampled_from([0.5, 1.0, 2.0]),
    k=st.integers(1, 3),
    dimensions=st.integers(1, 2),
    at=st.sampled_from([-0.5, 0.0, 0.3, 1.5]),
)
def test_no_contributions_tell_two_units_apart_better(
    seed: int, q: float, sigma: float, k: int, dimensions: int, at: float
) -> None:
    """Random contributions of two units, up to length 1 each, in every set of drawn buckets."""
    random = np.random.default_rng(seed)
    sets = np.array([[(number >> i) & 1 for i in range(k)] for number in range(2**k)], dtype=float)
    weights = np.prod(np.where(sets == 1, q, 1 - q), axis=1)

    def contributions() -> Numbers:
        found = random.standard_normal((k, dimensions))
        lengths = random.choice([0.0, 0.5, 1.0], (k, 1), p=[0.1, 0.2, 0.7])
        return found / np.linalg.norm(found, axis=1, keepdims=True) * lengths

    one, other = contributions(), contributions()
    if random.random() < 0.3:  # close to the worst case
        one, other = np.full_like(one, -(dimensions**-0.5)), np.full_like(one, dimensions**-0.5)
    nothing = np.zeros_like(one)
    for direction, upper, lower in (
        ("replace", one, other),
        ("remove", one, nothing),
        ("add", nothing, other),
    ):
        found = hockey_stick(sets @ upper, sets @ lower, weights, sigma, at)
        bound = Pair.of(sampling_rate=q, sigma=sigma, owned=k, direction=direction).delta(np.array([at]))
        assert found <= bound[0] + 1e-4


def test_all_buckets_of_every_step_are_one_gaussian() -> None:
    """With q = 1 the unit adds k, or moves the sum by 2k: the exact Gaussian mechanism, after T steps."""
    for adjacency, shift in (("add_remove", 3.0), ("replace", 6.0)):
        found = cost(1.0, 9.0, 25, 1e-5, 3, adjacency)  # type: ignore[arg-type]
        mu = shift * 5 / 9
        exact = norm.cdf(mu / 2 - found / mu) - math.exp(found) * norm.cdf(-mu / 2 - found / mu)
        assert exact == pytest.approx(1e-5, rel=0.02)
        assert exact <= 1e-5


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_one_bucket_is_the_answer_for_buckets(adjacency: Adjacency) -> None:
    usual = epsilon(
        sampling_rate=0.2, noise_multiplier=1.6, steps=200, delta=1e-3, unit="user", adjacency=adjacency
    )
    assert cost(0.2, 1.6, 200, 1e-3, 1, adjacency) == usual.epsilon
    assert usual.caveats[0].startswith("an upper bound")
    one = pld.one_step(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), adjacency, 2**-8)
    mine = pairs(sampling_rate=0.2, sigma=1.6, owned=1, adjacency=adjacency)
    for pair, theirs in zip(mine, pmfs.both(one.distribution)[: len(mine)], strict=True):
        at = np.arange(-2, 9) / 8  # multiples of the interval, where nothing is rounded
        np.testing.assert_allclose(pair.delta(at), theirs.get_delta_for_epsilon(at), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@settings(max_examples=10, deadline=None)
@given(
    q=st.floats(0.001, 1.0),
    sigma=st.floats(0.5, 20.0),
    steps=st.integers(1, 2000),
    k=st.integers(1, 49),
)
def test_more_buckets_cost_more(adjacency: Adjacency, q: float, sigma: float, steps: int, k: int) -> None:
    few, more = (cost(q, sigma, steps, 1e-5, n, adjacency) for n in (k, k + 1))
    assert few <= more * 1.005


def test_thousands_of_buckets_that_are_rarely_drawn() -> None:
    """Of the numbers of drawn buckets, only the likely ones are kept, and the others are paid for."""
    [pair] = pairs(sampling_rate=1e-3, sigma=2.0, owned=5000, adjacency="replace")
    assert len(pair.weights) < 60
    assert 0 < pair.neglected < 1e-25
    few = Pair.of(sampling_rate=0.5, sigma=2.0, owned=2000, direction="remove")
    assert few.upper.max() < -100, "it is certain that some are drawn"
    assert few.weights.min() > 0
    assert math.fsum(few.weights) == pytest.approx(1, abs=1e-15)


def test_the_rarest_components_decide_where_they_are_the_nearest() -> None:
    """Without them, this run would cost 9.6 % more; found by the bracket of random runs."""
    found = cost(0.8174190425638659, 0.955986170847455, 75, 0.0028590205828871616, 40, "replace")
    assert found == pytest.approx(51_370, rel=1e-3)


def test_what_was_left_out_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a coarse limit the numbers left out matter: delta is above that of the whole mixture, and not far."""
    asked = np.array([0.0, 0.5, 2.0])
    arguments = {"sampling_rate": 0.5, "sigma": 3.0, "owned": 12}
    whole = [
        Pair.of(**arguments, direction=direction).delta(asked) for direction in ("replace", "remove", "add")
    ]  # type: ignore[arg-type]
    monkeypatch.setattr(mixtures, "_SMALLEST_LOG_WEIGHT", -4.0)
    monkeypatch.setattr(mixtures, "_SMALLEST_FLOAT", -4.0)
    for exact, direction in zip(whole, ("replace", "remove", "add"), strict=True):
        pair = Pair.of(**arguments, direction=direction)  # type: ignore[arg-type]
        assert pair.neglected == pytest.approx(binom.sf(9, 12, 0.5))
        assert pair.weights[0] / pair.weights[-1] == pytest.approx(
            binom.cdf(3, 12, 0.5) / binom.pmf(9, 12, 0.5)
        )
        found = pair.delta(asked)
        assert (found >= exact).all()
        assert (found <= exact + 0.05).all()
        assert found[-1] >= pair.neglected
