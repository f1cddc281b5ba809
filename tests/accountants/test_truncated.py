"""Poisson sampling with a largest number of buckets: brute force over all draws, and dp-accounting's own bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dp_accounting import (
    NeighboringRelation,
    SelfComposedDpEvent,
    TruncatedSubsampledGaussianDpEvent,
)
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from accountants import ADJACENCIES, Adjacency, BucketMechanism, Ledger, TruncatedPoisson
from accountants.mechanism import Mechanism
from accountants.truncated import pairs, truncation

from .divergences import Numbers, drawn, hockey_stick, sums

ORDERS = [-1.5, -0.3, 0.0, 0.2, 0.7, 2.0]
RELATIONS = {
    "replace": NeighboringRelation.REPLACE_ONE,
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
}


def cost(mechanism: Mechanism, steps: int, adjacency: Adjacency, delta: float = 1e-5) -> float:
    return Ledger().record(mechanism, steps).guarantee(delta=delta, unit="class", adjacency=adjacency).epsilon


def used(units: int, rate: float, most: int) -> tuple[list[tuple[int, ...]], Numbers]:
    """Every set of buckets that a step may use, and its probability, by enumeration of draws and subsets."""
    sets = drawn(units, list(range(min(units, most) + 1)))
    weights = dict.fromkeys(sets, 0.0)
    for each in drawn(units, list(range(units + 1))):
        probability = rate ** len(each) * (1 - rate) ** (units - len(each))
        parts = list(itertools.combinations(each, min(len(each), most)))
        for part in parts:
            weights[part] += probability / len(parts)
    return sets, np.array([weights[each] for each in sets])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    units=st.integers(2, 4),
    most=st.integers(1, 3),
    rate=st.sampled_from([0.1, 0.4, 0.8, 1.0]),
    sigma=st.sampled_from([0.5, 1.0, 2.0]),
    at=st.sampled_from(ORDERS),
)
def test_no_two_data_sets_are_told_apart_better(
    seed: int, units: int, most: int, rate: float, sigma: float, at: float
) -> None:
    """All draws of contributions of length 1 at most; the first one is replaced, removed, or another one is added."""
    random = np.random.default_rng(seed)
    one = random.choice([-1.0, 0.0, 1.0, 0.3], units)
    other = one.copy()
    other[0] = random.choice([-1.0, 0.0, 1.0, -0.6])
    mechanism = TruncatedPoisson(units=units, sampling_rate=rate, most=most, noise_multiplier=sigma)

    def released(contributions: Numbers) -> tuple[Numbers, Numbers]:
        sets, weights = used(len(contributions), rate, most)
        return sums(sets, contributions), weights

    (replaced,) = pairs(mechanism, sigma=sigma, adjacency="replace")
    removed, added = pairs(mechanism, sigma=sigma, adjacency="add_remove")
    more = np.append(one, random.choice([-1.0, 1.0]))
    for pair, upper, lower in (
        (replaced, one, other),
        (removed, one, one[1:]),
        (removed, more, one),
        (added, one[1:], one),
        (added, one, more),
    ):
        found = hockey_stick(*released(upper), *released(lower), sigma, at)
        assert found <= pair.delta(np.array([at]))[0] + 1e-6


@pytest.mark.parametrize(
    ("units", "rate", "most"), [(5, 0.3, 2), (4, 0.9, 3), (6, 0.5, 1), (3, 1.0, 2), (4, 0.5, 4)]
)
def test_the_probabilities_are_those_of_an_enumeration(units: int, rate: float, most: int) -> None:
    full, taken = truncation(units, rate, most)
    assert full == pytest.approx(
        sum(binom.pmf(number, units - 1, rate) for number in range(most, units)), abs=1e-12
    )
    sets, weights = used(units, rate, most)
    takes_part = sum(weight for each, weight in zip(sets, weights, strict=True) if 0 in each)
    assert (1 - full) * rate + full * taken == pytest.approx(takes_part, rel=1e-9)


def test_a_truncation_too_rare_for_float64_is_paid_with_the_largest_share() -> None:
    full, taken = truncation(100, 1e-5, 60)
    assert 0 < full < 1e-250
    assert taken == pytest.approx(1e-5 * 60 / 61)
    assert truncation(10, 0.5, 10)[0] == 0


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_where_nothing_is_truncated_it_is_poisson_sampling(adjacency: Adjacency) -> None:
    plain = cost(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200, adjacency)
    # The neighbour with one bucket more is truncated at 10, too, if one may be added.
    most = 10 if adjacency == "replace" else 11
    same = TruncatedPoisson(units=10, sampling_rate=0.2, most=most, noise_multiplier=1.6)
    assert cost(same, 200, adjacency) == plain
    if adjacency == "add_remove":
        almost = TruncatedPoisson(units=10, sampling_rate=0.2, most=10, noise_multiplier=1.6)
        assert cost(almost, 200, adjacency) == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("most", [60, 70, 80])
def test_it_is_between_poisson_sampling_and_the_bound_of_dp_accounting(
    adjacency: Adjacency, most: int
) -> None:
    mechanism = TruncatedPoisson(units=600, sampling_rate=0.1, most=most, noise_multiplier=2)
    found = cost(mechanism, 200, adjacency)
    theirs = PLDAccountant(RELATIONS[adjacency], 1e-3)
    theirs.compose(SelfComposedDpEvent(TruncatedSubsampledGaussianDpEvent(600, 0.1, most, 2.0), 200))
    poisson = cost(BucketMechanism(sampling_rate=0.1, noise_multiplier=2), 200, adjacency)
    assert poisson <= found * 1.005
    assert found <= theirs.get_epsilon(1e-5)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("most", [80, 90, 110])
def test_it_is_not_above_the_bound_by_total_variation(adjacency: Adjacency, most: int) -> None:
    """Which adds T (1 + e^epsilon) P[more than B are drawn] to the delta of Poisson sampling (Chua et al. 2024)."""
    plain = BucketMechanism(sampling_rate=0.1, noise_multiplier=2)
    found = cost(
        TruncatedPoisson(units=600, sampling_rate=0.1, most=most, noise_multiplier=2), 200, adjacency
    )
    extra = 200 * (1 + math.exp(found / 1.005)) * float(binom.sf(most, 600, 0.1))
    assert extra >= 1e-5 or cost(plain, 200, adjacency, delta=1e-5 - extra) >= found / 1.005


def test_fewer_buckets_at_most_cost_more() -> None:
    """Down to their expected number; below, the rate of a bucket falls with the limit."""
    found = [
        cost(TruncatedPoisson(units=50, sampling_rate=0.2, most=most, noise_multiplier=2), 20, "replace")
        for most in (10, 12, 15, 50)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_the_answer_says_that_it_may_be_loose() -> None:
    run = Ledger().record(TruncatedPoisson(units=10, sampling_rate=0.2, most=3, noise_multiplier=1), 5)
    assert "not known" in run.guarantee(delta=1e-5, unit="class").caveats[-1]
