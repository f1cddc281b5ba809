"""Promises by unit: against the accountants, asked directly."""

from __future__ import annotations

import dataclasses

import pytest

from accountants import BucketMechanism, Ledger
from accountants.units import unit_table
from dpmi.privacy import Account, Provenance
from dpmi.privacy.noise import NoiseMode
from dpmi.report.numbers.promises import promises

LEDGER = Ledger().record(BucketMechanism(sampling_rate=0.05, noise_multiplier=2.0), 50)
DELTA = 1e-4


def account(unit: str, **changed: object) -> Account:
    return dataclasses.replace(
        Account(
            ledger=LEDGER,
            unit=unit,
            buckets=40,
            provenance=Provenance.RECORD,
            partition_hash="ab" * 32,
            max_grad_norms=(1.0,),
            noise=NoiseMode.SECURE,
        ),
        **changed,  # type: ignore[arg-type]
    )


def test_a_class_run_covers_a_record_as_a_part_of_its_class() -> None:
    record, own = promises(account("class"), DELTA, {})
    assert (record.unit, own.unit) == ("record", "class")
    direct = LEDGER.guarantee(delta=DELTA, unit="class")
    assert own.guarantee is not None
    assert record.guarantee is not None
    assert record.guarantee.epsilon == own.guarantee.epsilon == direct.epsilon
    assert record.holds
    assert own.holds
    assert "another of the same class" in record.why
    assert record.others == {}
    assert own.others == {
        "add_remove": LEDGER.guarantee(delta=DELTA, unit="class", adjacency="add_remove").epsilon,
        "lemma3": LEDGER.guarantee(delta=DELTA, unit="class", accountant="lemma3").epsilon,
        "theorem1": LEDGER.guarantee(delta=DELTA, unit="class", accountant="theorem1").epsilon,
    }


def test_a_record_run_promises_a_user_what_dpmi_units_prints_and_a_class_nothing() -> None:
    record, user, whole = promises(account("record"), DELTA, {"user": 3})
    (_, row) = unit_table(LEDGER, records_per_unit={"record": 1, "user": 3}, delta=DELTA)
    assert user.guarantee is not None
    assert record.guarantee is not None
    assert user.guarantee.epsilon == row.sampled_by_record["replace"].epsilon > record.guarantee.epsilon
    assert (whole.unit, whole.guarantee, whole.holds) == ("class", None, False)
    assert "--records-per-unit class=NUMBER" in whole.why


def test_a_unit_of_many_records_is_in_no_more_buckets_than_there_are() -> None:
    of = promises(account("subclass", buckets=4), DELTA, {"class": 180})[-1]
    assert of.guarantee is not None
    direct = LEDGER.guarantee(delta=DELTA, unit="class", buckets_per_unit=4)
    assert of.guarantee.epsilon == direct.epsilon
    assert "at most 180 records, each exchanged for one of the same subclass" in of.why


@pytest.mark.parametrize(
    "run",
    [
        account("class", noise=NoiseMode.SEEDED),
        account("class", ledger=Ledger()),
    ],
    ids=["seeded", "no step"],
)
def test_what_is_no_guarantee_holds_for_no_unit(run: Account) -> None:
    assert not any(each.holds for each in promises(run, DELTA, {"user": 2}))


def test_a_run_without_noise_holds_for_no_unit() -> None:
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        noiseless = BucketMechanism(sampling_rate=0.5, noise_multiplier=0.0)
    run = account("class", ledger=Ledger().record(noiseless, 1))
    assert not any(each.holds for each in promises(run, DELTA, {"user": 2}))


def test_owners_of_several_buckets_have_their_own_epsilon_and_others_none() -> None:
    run = account("user", buckets_per_unit=2, provenance=Provenance.OWNERS)
    _, own, other, _ = promises(run, DELTA, {"household": 4})
    assert own.guarantee is not None
    assert own.guarantee.epsilon == LEDGER.guarantee(delta=DELTA, unit="user", buckets_per_unit=2).epsilon
    assert other.guarantee is None
