"""The ledger: steps in runs of equal mechanisms, whichever way they were recorded."""

from typing import Any

import pytest

from accountants import ACCOUNTANTS, BucketMechanism, Ledger, epsilon

STEP = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
OTHER = BucketMechanism(sampling_rate=0.2, noise_multiplier=3.0)


def test_equal_steps_are_one_run() -> None:
    ledger = Ledger()
    for _ in range(200):
        ledger = ledger.record(STEP)
    assert ledger == Ledger(((STEP, 200),))
    assert ledger.record(OTHER, 3).record(STEP).runs == ((STEP, 200), (OTHER, 3), (STEP, 1))
    assert ledger.record(OTHER, 3).record(STEP).totals == {STEP: 201, OTHER: 3}
    assert ledger.record(OTHER, 3).steps == 203


def test_recording_leaves_the_ledger_as_it_was() -> None:
    ledger = Ledger().record(STEP)
    ledger.record(STEP, 10)
    assert ledger.steps == 1
    assert ledger.record(OTHER, 0) == ledger


@pytest.mark.parametrize("accountant", ACCOUNTANTS.names())
def test_two_hundred_steps_one_by_one_cost_what_they_cost_at_once(accountant: str) -> None:
    ledger = Ledger()
    for _ in range(200):
        ledger = ledger.record(STEP)
    at_once = epsilon(
        sampling_rate=0.2, noise_multiplier=1.6, steps=200, delta=1e-3, unit="class", accountant=accountant
    )
    assert ledger.guarantee(delta=1e-3, unit="class", accountant=accountant) == at_once


@pytest.mark.parametrize("steps", [-1, 2.0, True, "3", None])
def test_steps_must_be_a_count(steps: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="steps must be"):
        Ledger().record(STEP, steps)


@pytest.mark.parametrize("runs", [((STEP, 0),), ((STEP, 1.5),), (("step", 1),)])
def test_a_ledger_of_something_else_is_refused(runs: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"steps|BucketMechanism"):
        Ledger(runs)
