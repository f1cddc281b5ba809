"""A statement says how the buckets of every charged step were drawn."""

from __future__ import annotations

import json

import pytest

from accountants import BallsInBins, BucketMechanism, FixedNumber, Ledger, TruncatedPoisson
from dpmi.privacy import Account, NoiseMode, Provenance, Statement, sampling_text

POISSON = Ledger().record(BucketMechanism(sampling_rate=0.1, noise_multiplier=2), 200)
FIXED = Ledger().record(FixedNumber(units=600, drawn=60, noise_multiplier=2), 200)
TRUNCATED = Ledger().record(TruncatedPoisson(units=600, sampling_rate=0.1, most=80, noise_multiplier=2), 200)
PASSES = Ledger().record(BallsInBins(steps_per_pass=10, noise_multiplier=2), 20)


def account(ledger: Ledger) -> Account:
    return Account(
        ledger=ledger,
        unit="user",
        buckets=600,
        provenance=Provenance.RECORD,
        partition_hash=64 * "0",
        max_grad_norms=(3.0,),
        noise=NoiseMode.SECURE,
    )


@pytest.mark.parametrize(
    ("ledger", "steps", "draws"),
    [
        (
            POISSON,
            "200 with sampling rate 0.1 and noise multiplier 2",
            "every user is drawn as a whole and indep",
        ),
        (
            FIXED,
            "200 with 60 of 600 buckets and noise multiplier 2",
            "a fixed number of buckets is drawn as wholes",
        ),
        (
            TRUNCATED,
            "200 with sampling rate 0.1, at most 80 of 600 buckets and noise multiplier 2",
            "of more than the largest number, a uniformly random subset is used",
        ),
        (
            PASSES,
            "20 passes of 10 steps with noise multiplier 2",
            "every bucket is assigned to one step of a pass",
        ),
        (Ledger(), "none", "Poisson sampling"),
    ],
)
def test_steps_and_draws_are_named(ledger: Ledger, steps: str, draws: str) -> None:
    text = Statement(accounts=(account(ledger),), delta=1e-5).markdown()
    assert f"- Steps charged: {steps}\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("- Sampling: ")]
    assert draws in line
    assert "in other runs" not in line
    assert ("sampling rate times number of buckets" in text) is (ledger in (POISSON, Ledger()))


def test_several_samplers_are_all_named() -> None:
    assert "in other runs, a fixed number" in sampling_text.sampling(POISSON + FIXED, "user")
    assert sampling_text.charged(POISSON + PASSES).startswith("400 in total: 200 with sampling rate")


def test_a_fixed_number_has_one_guarantee_and_the_reason() -> None:
    statement = Statement(accounts=(account(FIXED),), delta=1e-5)
    ((guarantee,),) = statement.guarantees
    assert guarantee.adjacency == "replace"
    assert "adding or removing a bucket has no epsilon" in statement.text()
    assert "how far above the exact value is not known" in statement.markdown()


@pytest.mark.parametrize("ledger", [TRUNCATED, PASSES])
def test_the_others_have_both(ledger: Ledger) -> None:
    ((replace, add_remove),) = Statement(accounts=(account(ledger),), delta=1e-5).guarantees
    assert add_remove.epsilon < replace.epsilon


def test_runs_as_json() -> None:
    found = json.loads(json.dumps(Statement(accounts=(account(POISSON + PASSES),), delta=1e-5).to_dict()))
    assert found["promises"][0]["runs"] == [
        {"sampling_rate": 0.1, "noise_multiplier": 2, "steps": 200},
        {"sampler": "balls_in_bins", "steps_per_pass": 10, "noise_multiplier": 2, "times": 20},
    ]
    assert found["promises"][0]["steps"] == 400


@pytest.mark.parametrize("ledger", [FIXED, TRUNCATED, PASSES, POISSON + PASSES])
def test_an_account_reads_back(ledger: Ledger) -> None:
    assert Account.from_json(account(ledger).to_json()) == account(ledger)
