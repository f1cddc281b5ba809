"""What every registered accountant satisfies, over the whole domain that anybody would ask for.

A new accountant is in this suite from the moment it is in ``ACCOUNTANTS``.

Modules: accountants/lemma3.py, accountants/pld.py, accountants/registry.py, accountants/theorem1.py,
accountants/tight.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from accountants import (
    ACCOUNTANTS,
    ADJACENCIES,
    Adjacency,
    BallsInBins,
    BucketMechanism,
    FixedNumber,
    Ledger,
    TruncatedPoisson,
    pld,
    tight,
)
from accountants.mechanism import Mechanism

# q in [1e-6, 1], sigma in [.3, 100], T in [1, 1e6], delta in [1e-10, .5], each spread over its magnitudes.
RATES = st.floats(-6, 0).map(lambda x: 10.0**x)
NOISES = st.floats(math.log10(0.3), 2).map(lambda x: 10.0**x)
STEPS = st.floats(0, 6).map(lambda x: round(10.0**x))
DELTAS = st.floats(-10, math.log10(0.5)).map(lambda x: 10.0**x)
FACTORS = st.floats(1.1, 3)
EVERY = pytest.mark.parametrize("accountant", ACCOUNTANTS.names())
BOTH = pytest.mark.parametrize("adjacency", ADJACENCIES)
FEW = settings(max_examples=2, deadline=None)  # they are others in every run

pytestmark = pytest.mark.filterwarnings("ignore:noise_multiplier is 0", "ignore:delta = ")


def run(q: float, sigma: float, steps: int) -> Ledger:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hypothesis likes the ends, where a mechanism warns
        return Ledger().record(BucketMechanism(sampling_rate=q, noise_multiplier=sigma), steps)


def cost(ledger: Ledger, delta: float, adjacency: Adjacency, accountant: str) -> float:
    return ledger.guarantee(delta=delta, unit="class", adjacency=adjacency, accountant=accountant).epsilon


def cost_and_slack(
    ledger: Ledger, delta: float, adjacency: Adjacency, accountant: str
) -> tuple[float, float]:
    """Also by which factor an answer may exceed the accountant's own limit: only `tight` is discretised."""
    told = ledger.guarantee(delta=delta, unit="class", adjacency=adjacency, accountant=accountant)
    if accountant != "tight":
        return told.epsilon, 1 + 1e-9
    assume("still coarse" not in told.caveats[0])
    return told.epsilon, 1 + tight.STATED_ERROR


@EVERY
@BOTH
@FEW
@given(delta=DELTAS)
def test_no_steps_cost_nothing(accountant: str, adjacency: Adjacency, delta: float) -> None:
    assert cost(Ledger(), delta, adjacency, accountant) == 0


@EVERY
@BOTH
@FEW
@given(q=RATES, steps=STEPS, delta=DELTAS)
def test_no_noise_costs_everything(
    accountant: str, adjacency: Adjacency, q: float, steps: int, delta: float
) -> None:
    assert cost(run(q, 0.0, steps), delta, adjacency, accountant) == math.inf


# One test for the four directions: each compares with the same base, which is what takes the time.
@EVERY
@BOTH
@FEW
@given(q=RATES, sigma=NOISES, data=st.data())
def test_it_is_monotone_in_noise_rate_steps_and_delta(
    accountant: str, adjacency: Adjacency, q: float, sigma: float, data: st.DataObject
) -> None:
    steps, delta, factor = data.draw(STEPS), data.draw(DELTAS), data.draw(FACTORS)
    more_steps = min(10**6, math.ceil(steps * factor))
    assume(delta > 4 * pld.ROUNDING_PER_STEP * more_steps)
    base_run = run(q, sigma, steps)
    base, room = cost_and_slack(base_run, delta, adjacency, accountant)
    floor = 2e-6  # an epsilon of this size has converged, whatever its fraction
    noisier, denser, longer = (
        run(q, sigma * factor, steps),
        run(min(1.0, q * factor), sigma, steps),
        run(q, sigma, more_steps),
    )
    assert cost(noisier, delta, adjacency, accountant) <= base * room + floor
    assert cost(base_run, min(0.5, delta * factor), adjacency, accountant) <= base * room + floor
    assert base <= cost(denser, delta, adjacency, accountant) * room + floor
    assert base <= cost(longer, delta, adjacency, accountant) * room + floor


@EVERY
@BOTH
@FEW
@given(q=RATES, sigma=NOISES, steps=STEPS, delta=DELTAS)
def test_steps_at_once_or_one_by_one_or_in_two_runs_cost_the_same(
    accountant: str, adjacency: Adjacency, q: float, sigma: float, steps: int, delta: float
) -> None:
    steps = min(steps, 2000)
    assume(delta > 2 * pld.ROUNDING_PER_STEP * steps)
    mechanism = BucketMechanism(sampling_rate=q, noise_multiplier=sigma)
    singly = Ledger()
    for _ in range(min(steps, 50)):
        singly = singly.record(mechanism)
    singly = singly.record(mechanism, steps - singly.steps)
    parted = run(q, sigma, steps // 2) + run(q, sigma, steps - steps // 2)
    whole = cost(run(q, sigma, steps), delta, adjacency, accountant)
    assert cost(singly, delta, adjacency, accountant) == whole
    assert cost(parted, delta, adjacency, accountant) == whole


@EVERY
@FEW
@given(q=RATES, sigma=NOISES, steps=STEPS, delta=DELTAS)
def test_replacing_costs_at_least_adding_or_removing(
    accountant: str, q: float, sigma: float, steps: int, delta: float
) -> None:
    assume(delta > 2 * pld.ROUNDING_PER_STEP * steps)
    ledger = run(q, sigma, steps)
    add_remove, room = cost_and_slack(ledger, delta, "add_remove", accountant)
    assert add_remove <= cost(ledger, delta, "replace", accountant) * room + 1e-6


@BOTH
@FEW
@given(q=RATES, sigma=NOISES, steps=STEPS, delta=DELTAS)
def test_the_tight_accountant_is_at_most_the_moments(
    adjacency: Adjacency, q: float, sigma: float, steps: int, delta: float
) -> None:
    assume(delta > 2 * pld.ROUNDING_PER_STEP * steps)
    ledger = run(q, sigma, steps)
    exact, room = cost_and_slack(ledger, delta, adjacency, "tight")
    assert exact <= cost(ledger, delta, adjacency, "lemma3") * room + 1e-6


@BOTH
@FEW
@given(q=RATES, sigma=NOISES, steps=STEPS, delta=DELTAS)
def test_a_larger_interval_never_lowers_epsilon_beyond_rounding(
    adjacency: Adjacency, q: float, sigma: float, steps: int, delta: float
) -> None:
    assume(delta > 2 * pld.ROUNDING_PER_STEP * steps)
    totals = run(q, sigma, steps).totals
    fine = pld.fine_interval(totals, adjacency)
    epsilons = []
    for factor in (1, 4, 16):
        composed = pld.compose(totals, adjacency=adjacency, interval=factor * fine)
        assert composed is not None
        epsilons.append(composed.epsilon(delta))
    finest, finer, coarse = epsilons
    room = 1 + tight.STATED_ERROR
    assert finest <= finer * room + 1e-6
    assert finer <= coarse * room + 1e-6


def test_only_upper_bounds_call_themselves_a_guarantee() -> None:
    told = {
        name: run(0.02, 1.0, 10_000).guarantee(delta=0.01, unit="class", accountant=name)
        for name in ACCOUNTANTS.names()
    }
    exact = told["tight"].epsilon
    assert exact == pytest.approx(17.98, abs=0.01)
    for name, guarantee in told.items():
        assert guarantee.is_guarantee is (name != "theorem1")
        # Every condition of Theorem 1 holds here, and it is below the exact value all the same.
        assert (guarantee.epsilon >= exact) is guarantee.is_guarantee


def fixed_number(sigma: float) -> Mechanism:
    return FixedNumber(units=40, drawn=8, noise_multiplier=sigma)


def truncated_poisson(sigma: float) -> Mechanism:
    return TruncatedPoisson(units=40, sampling_rate=0.2, most=10, noise_multiplier=sigma)


def balls_in_bins(sigma: float) -> Mechanism:
    return BallsInBins(steps_per_pass=5, noise_multiplier=sigma)


OTHERS = pytest.mark.parametrize(
    ("make", "adjacency"),
    [
        (fixed_number, "replace"),
        *((make, adjacency) for make in (truncated_poisson, balls_in_bins) for adjacency in ADJACENCIES),
    ],
)


@OTHERS
@FEW
@given(sigma=NOISES, times=st.integers(1, 300), delta=DELTAS, data=st.data())
def test_other_samplers_are_monotone_in_noise_times_and_delta(
    make: Callable[[float], Mechanism],
    adjacency: Adjacency,
    sigma: float,
    times: int,
    delta: float,
    data: st.DataObject,
) -> None:
    factor = data.draw(FACTORS)

    def of(sigma: float, times: int, delta: float) -> float:
        return cost(Ledger().record(make(sigma), times), delta, adjacency, "tight")

    base, room, floor = of(sigma, times, delta), 1 + 2 * tight.STATED_ERROR, 2e-6
    assert of(sigma, 0, delta) == 0
    assert of(sigma * factor, times, delta) <= base * room + floor
    assert of(sigma, times, min(0.5, delta * factor)) <= base * room + floor
    assert base <= of(sigma, times + 1, delta) * room + floor


@OTHERS
def test_other_samplers_compose_with_each_other_in_any_order(
    make: Callable[[float], Mechanism], adjacency: Adjacency
) -> None:
    poisson, other = run(0.1, 2.0, 20), Ledger().record(make(2.0), 6)
    parted = Ledger().record(make(2.0), 2) + poisson + Ledger().record(make(2.0), 4)
    both = cost(poisson + other, 1e-5, adjacency, "tight")
    assert both == pytest.approx(cost(parted, 1e-5, adjacency, "tight"), rel=1e-6)
    assert both > max(cost(each, 1e-5, adjacency, "tight") for each in (poisson, other))
    assert both < sum(cost(each, 5e-6, adjacency, "tight") for each in (poisson, other)) * 1.01


@OTHERS
def test_other_samplers_cost_no_more_than_all_buckets_in_every_step(
    make: Callable[[float], Mechanism], adjacency: Adjacency
) -> None:
    for sigma in (0.5, 2.0, 20.0):
        every = cost(run(1.0, sigma, 10), 1e-5, adjacency, "tight")
        assert cost(Ledger().record(make(sigma), 10), 1e-5, adjacency, "tight") <= every * 1.01
