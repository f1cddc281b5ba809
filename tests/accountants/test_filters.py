"""Privacy filters: what they allow, what they promise, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from accountants import BucketMechanism, Ledger, lemma3, renyi
from accountants.filters import PrivacyFilter
from accountants.guarantee import Adjacency
from accountants.mechanism import for_units

STEP = BucketMechanism(sampling_rate=0.2, noise_multiplier=4.0)
LIMIT = PrivacyFilter.planned(STEP, target_epsilon=8.0, delta=1e-5)


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
@pytest.mark.parametrize("owned", [1, 3])
def test_it_allows_as_many_planned_steps_as_moments_do(adjacency: Adjacency, owned: int) -> None:
    limit = PrivacyFilter.planned(
        STEP, target_epsilon=20.0, delta=1e-5, adjacency=adjacency, buckets_per_unit=owned
    )
    steps = limit.steps_left(Ledger(), STEP)
    assert limit.allows(Ledger(), STEP, steps)
    assert not limit.allows(Ledger(), STEP, steps + 1)
    tight = (
        Ledger()
        .record(STEP, steps)
        .guarantee(delta=1e-5, unit="user", adjacency=adjacency, buckets_per_unit=owned)
    )
    assert 0.8 * 20.0 < tight.epsilon < 20.0


def test_under_add_remove_it_is_the_moments_accountant_at_its_order() -> None:
    limit = PrivacyFilter.planned(STEP, target_epsilon=8.0, delta=1e-5, adjacency="add_remove")
    kappa = limit.order - 1
    one = lemma3.log_moment(kappa, sampling_rate=0.2, noise_multiplier=8.0)
    steps = limit.steps_left(Ledger(), STEP)
    assert lemma3.rdp_epsilon(steps * one, kappa, delta=1e-5) <= 8.0
    assert lemma3.rdp_epsilon((steps + 1) * one, kappa, delta=1e-5) > 8.0


def test_steps_of_any_kind_fill_one_budget() -> None:
    random, ledger = np.random.default_rng(1), Ledger()
    while True:
        step = BucketMechanism(
            sampling_rate=random.uniform(0.05, 0.4), noise_multiplier=random.uniform(2.0, 9.0)
        )
        if not LIMIT.allows(ledger, step):
            break
        ledger = ledger.record(step)
    spent = sum(steps * renyi.divergence(m, "replace", LIMIT.order) for m, steps in ledger.totals.items())
    assert 0.9 * LIMIT.budget < spent <= LIMIT.budget
    assert ledger.guarantee(delta=1e-5, unit="user").epsilon < 8.0
    assert LIMIT.guarantee(ledger, delta=1e-5, unit="user").epsilon == 8.0
    assert LIMIT.steps_left(ledger, BucketMechanism(sampling_rate=0.4, noise_multiplier=2.0)) == 0


def test_what_was_not_spent_is_charged_all_the_same() -> None:
    """How much a run spends may depend on what it has seen, so only the limit is a promise."""
    first = LIMIT.guarantee(Ledger().record(STEP), delta=1e-5, unit="user")
    assert (first.epsilon, first.accountant, first.steps) == (8.0, "filter", 1)
    assert any(
        text.startswith("a filter stops before epsilon = 8 at delta = 1e-05") for text in first.caveats
    )
    assert LIMIT.guarantee(Ledger(), delta=1e-5, unit="user").epsilon == 0.0


def test_another_delta_has_another_epsilon() -> None:
    used = Ledger().record(STEP, 100)
    for delta in (1e-3, 1e-8):
        expected = lemma3.rdp_epsilon(LIMIT.budget * (LIMIT.order - 1), LIMIT.order - 1, delta=delta)
        assert LIMIT.guarantee(used, delta=delta, unit="user").epsilon == pytest.approx(expected)


def test_a_limit_on_replacements_holds_for_removals_but_not_the_reverse() -> None:
    used = Ledger().record(STEP, 100)
    assert LIMIT.guarantee(used, delta=1e-5, unit="user", adjacency="add_remove").epsilon == 8.0
    weaker = PrivacyFilter.planned(STEP, target_epsilon=8.0, delta=1e-5, adjacency="add_remove")
    assert weaker.guarantee(used, delta=1e-5, unit="user", adjacency="add_remove").epsilon == 8.0
    found = weaker.guarantee(used, delta=1e-5, unit="user", adjacency="replace")
    assert found.epsilon == math.inf
    assert any("make it with adjacency='replace'" in text for text in found.caveats)


@pytest.mark.parametrize("owned", [1, 4])
@pytest.mark.parametrize("order", [1.5, 8.0, 60.0])
def test_replacing_costs_at_least_removing(owned: int, order: float) -> None:
    """On which the implication above rests."""
    for q in (0.01, 0.3, 1.0):
        for sigma in (0.8, 4.0):
            one = dataclasses.replace(STEP, sampling_rate=q, noise_multiplier=sigma)
            (seen,) = for_units({one: 1}, owned)
            assert renyi.divergence(seen, "replace", order) >= renyi.divergence(seen, "add_remove", order)


def test_a_step_without_noise_is_never_allowed() -> None:
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        bare = BucketMechanism(sampling_rate=0.1, noise_multiplier=0)
    assert not LIMIT.allows(Ledger(), bare)
    assert LIMIT.steps_left(Ledger(), bare) == 0


def test_it_reads_back_what_it_wrote() -> None:
    assert PrivacyFilter.from_dict(LIMIT.to_dict()) == LIMIT


def changed(**values: Any) -> Callable[[], object]:
    return lambda: dataclasses.replace(LIMIT, **values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (changed(target_epsilon=0.0), "target_epsilon must be above 0, got 0"),
        (changed(target_epsilon=math.nan), "target_epsilon must be finite, got nan"),
        (changed(delta=1.0), r"delta must be in \(0, 1\), got 1"),
        (changed(order=1.0), "order must be above 1, got 1"),
        (
            changed(order=1.01),
            "order is 1.01, at which epsilon exceeds target_epsilon = 8 before the first step",
        ),
        (changed(adjacency="swap"), "adjacency must be one of replace, add_remove, got 'swap'"),
        (changed(buckets_per_unit=0), "buckets_per_unit must be at least 1, got 0"),
        (
            lambda: PrivacyFilter.planned(STEP, target_epsilon=0.01, delta=1e-9),
            "does not allow a single step of BucketMechanism",
        ),
        (lambda: LIMIT.allows(Ledger(), STEP, -1), "steps must be at least 0, got -1"),
        (
            lambda: LIMIT.guarantee(Ledger().record(STEP, 10**6), delta=1e-5, unit="user"),
            "the ledger has 1000000 steps, which exceed the filter's target_epsilon = 8",
        ),
        (
            lambda: LIMIT.guarantee(Ledger(), delta=1e-5, unit="user", buckets_per_unit=2),
            "buckets_per_unit is 2, and the filter was made for 1",
        ),
        (lambda: PrivacyFilter.from_dict({"rule": "filter"}), "missing: adjacency, buckets_per_unit, delta"),
    ],
)
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
