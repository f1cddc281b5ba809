"""Buckets drawn in fixed number: brute force over all subsets, closed forms, and brackets of several steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import BucketMechanism, FixedNumber, Ledger, PrivacyProfile, reconstruction_bound
from accountants.fixed_number import Subset
from accountants.guarantee import Adjacency
from accountants.mechanism import Mechanism
from accountants.mixtures import Pair

from .divergences import drawn, gaussian, hockey_stick, sums

ORDERS = np.array([-2.0, -0.7, -0.1, 0.0, 0.1, 0.5, 1.0, 3.0])


def cost(mechanism: Mechanism, steps: int, delta: float = 1e-5, adjacency: Adjacency = "replace") -> float:
    return Ledger().record(mechanism, steps).guarantee(delta=delta, unit="class", adjacency=adjacency).epsilon


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_with_all_buckets_it_is_the_gaussian_mechanism_at_distance_2(sigma: float) -> None:
    expected = [gaussian(2 / sigma, at) for at in ORDERS]
    np.testing.assert_allclose(Subset(1.0, sigma).delta(ORDERS), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("rate", "sigma"), [(0.1, 1.0), (0.5, 0.4), (0.01, 2.0), (1e-6, 1.0)])
def test_above_order_one_it_is_the_pair_of_a_contribution_of_length_2(rate: float, sigma: float) -> None:
    pair = Pair.of(sampling_rate=rate, sigma=sigma / 2, owned=1, direction="remove")
    above = ORDERS[ORDERS >= 0]
    np.testing.assert_allclose(Subset(rate, sigma).delta(above), pair.delta(above), rtol=1e-7, atol=1e-14)


def test_a_profile_is_its_own_mirror_image() -> None:
    found = Subset(0.2, 1.3).delta(ORDERS)
    mirrored = 1 - np.exp(ORDERS) + np.exp(ORDERS) * Subset(0.2, 1.3).delta(-ORDERS[::-1])[::-1]
    np.testing.assert_allclose(found, mirrored, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(1e-4, 1), sigma=st.floats(0.2, 20))
def test_it_is_the_profile_of_a_pair(rate: float, sigma: float) -> None:
    """Convex and falling in e^epsilon, from 1, and never below 1 - e^epsilon [ZDW22, Prop. 10]."""
    order = np.linspace(0.001, 3, 3000)
    found = Subset(rate, sigma).delta(np.log(order))
    assert np.all(np.diff(found) <= 0)
    assert np.all(np.diff(found, 2) >= -1e-14)
    assert np.all(found >= 1 - order - 1e-15)
    assert found[0] <= 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    of=st.sampled_from([(1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (5, 3), (3, 3)]),
    sigma=st.sampled_from([0.5, 1.0, 2.0]),
    at=st.sampled_from(ORDERS.tolist()),
)
def test_no_two_data_sets_are_told_apart_better(
    seed: int, of: tuple[int, int], sigma: float, at: float
) -> None:
    """Every subset of K contributions of length 1 at most, of which the first one is replaced."""
    units, number = of
    random = np.random.default_rng(seed)
    one = random.choice([-1.0, 0.0, 1.0, 0.3], units)
    other = one.copy()
    other[0] = random.choice([-1.0, 0.0, 1.0, -0.6])
    sets = drawn(units, [number])
    weights = np.full(len(sets), 1 / len(sets))
    found = hockey_stick(sums(sets, one), weights, sums(sets, other), weights, sigma, at)
    bound = Subset(number / units, sigma).delta(np.array([at]))[0]
    assert found <= bound + 1e-6


@pytest.mark.parametrize("at", [0.0, 0.2, 1.0])
def test_one_step_reaches_the_bound(at: float) -> None:
    sets = drawn(5, [2])
    weights = np.full(len(sets), 1 / len(sets))
    others = np.ones(5)
    one = np.array([-1.0, 1, 1, 1, 1])
    found = hockey_stick(sums(sets, one), weights, sums(sets, others), weights, 1.0, at)
    assert found == pytest.approx(Subset(0.4, 1.0).delta(np.array([at]))[0], rel=1e-5)


@pytest.mark.parametrize(
    ("units", "number", "sigma", "steps"), [(600, 60, 2.0, 200), (100, 20, 1.6, 50), (50, 1, 0.8, 300)]
)
def test_several_steps_are_between_two_attacks_and_the_moments(
    units: int, number: int, sigma: float, steps: int
) -> None:
    rate = number / units
    found = cost(FixedNumber(units=units, drawn=number, noise_multiplier=sigma), steps)
    # All other contributions are 0, or equal one of the two: then a step is a Poisson-sampled one.
    at_zero = cost(BucketMechanism(sampling_rate=rate, noise_multiplier=sigma), steps)
    at_one = cost(
        BucketMechanism(sampling_rate=rate, noise_multiplier=sigma / 2), steps, adjacency="add_remove"
    )
    assert max(at_zero, at_one) / 1.005 <= found
    moments = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    # Its noise is relative to the distance of the two sums.
    event = SampledWithoutReplacementDpEvent(units, number, GaussianDpEvent(sigma / 2))
    moments.compose(SelfComposedDpEvent(event, steps))
    assert found <= moments.get_epsilon(1e-5)


def test_known_value() -> None:
    assert cost(FixedNumber(units=600, drawn=60, noise_multiplier=2), 200) == pytest.approx(11.40, abs=0.02)


@pytest.mark.parametrize("steps", [1, 30])
def test_a_draw_of_all_is_poisson_sampling_at_rate_1(steps: int) -> None:
    all_of_them = FixedNumber(units=7, drawn=7, noise_multiplier=3)
    assert cost(all_of_them, steps) == cost(BucketMechanism(sampling_rate=1, noise_multiplier=3), steps)


def test_the_answer_says_that_it_may_be_loose() -> None:
    told = Ledger().record(FixedNumber(units=10, drawn=2, noise_multiplier=1), 5)
    assert "not known" in told.guarantee(delta=1e-5, unit="class").caveats[-1]


def test_one_bucket_more_or_less_is_refused_everywhere() -> None:
    run = Ledger().record(FixedNumber(units=10, drawn=2, noise_multiplier=1), 5)
    message = r"'add_remove' is not defined for buckets drawn in fixed number.*use adjacency='replace'"
    with pytest.raises(ValueError, match=message):
        run.guarantee(delta=1e-5, unit="class", adjacency="add_remove")
    with pytest.raises(ValueError, match=message):
        reconstruction_bound(run, [0.1])
    with pytest.raises(ValueError, match=message):
        PrivacyProfile(ledger=run, unit="class", adjacency="add_remove").delta([1.0])
    assert run.adjacencies == ("replace",)


def test_a_profile_of_a_run_agrees_with_its_epsilon() -> None:
    run = Ledger().record(FixedNumber(units=10, drawn=2, noise_multiplier=2), 5)
    found = run.guarantee(delta=1e-3, unit="class").epsilon
    assert PrivacyProfile(ledger=run, unit="class").delta([found])[0] == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize("sigma", [1e-3, 0.01, 1e5, 1e9])
def test_extreme_noise_has_an_answer(sigma: float) -> None:
    found = cost(FixedNumber(units=1000, drawn=1, noise_multiplier=sigma), 10, delta=1e-6)
    assert 0 <= found < math.inf
