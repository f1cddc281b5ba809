"""Runs that commands read from files: saved ledgers, accounts, and Opacus checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from accountants import ADJACENCIES, BucketMechanism, Ledger, PrivacyFilter, Tries
from dpmi.privacy import Account, NoiseMode, Provenance

from .conftest import Dpmi, check_mistake, epsilon

STEP = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
LEDGER = Ledger().record(STEP, 200)
ACCOUNT = Account(
    ledger=LEDGER,
    unit="subclass",
    buckets=500,
    provenance=Provenance.RECORD,
    partition_hash="ab" * 32,
    max_grad_norms=(3.0,),
    noise=NoiseMode.SECURE,
)
NUMBERS = ("--sampling-rate", "0.2", "--noise-multiplier", "1.6", "--steps", "200")


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: Any) -> Path:
        path = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        if isinstance(content, Ledger | Account):
            path.write_text(content.to_json(), encoding="utf-8")
        else:
            torch.save(content, path)
        return path

    return write


def opacus(*history: Any) -> dict[str, Any]:
    return {"privacy_accountant_state_dict": {"history": list(history), "mechanism": "rdp"}}


def test_a_ledger_or_an_account_gives_the_same_epsilons_as_the_numbers(dpmi: Dpmi, file: Any) -> None:
    expected = json.loads(dpmi(*epsilon(), "--json").out)
    for options in (
        ("--account", file(LEDGER), "--unit", "subclass"),
        ("--opacus", file(opacus((1.6, 0.2, 150), (1.6, 0.2, 50))), "--unit", "subclass"),
    ):
        found = json.loads(dpmi("epsilon", *options, "--delta", "1e-3", "--json").out)
        assert found == expected, options
    found = json.loads(dpmi("epsilon", "--account", file(ACCOUNT), "--delta", "1e-3", "--json").out)
    # It knows the number of buckets, for which this delta is no longer small enough to be silent about.
    assert [g["epsilon"] for g in found] == [g["epsilon"] for g in expected]


def test_the_conditions_of_an_account_are_not_lost(dpmi: Dpmi, file: Any) -> None:
    seeded = dataclasses.replace(ACCOUNT, noise=NoiseMode.SEEDED, provenance=Provenance.FITTED)
    found = json.loads(dpmi("epsilon", "--account", file(seeded), "--delta", "1e-4", "--json").out)
    assert not any(g["is_guarantee"] for g in found)
    assert all("conditional on the partition" in g["caveats"][0] for g in found)
    for command in (("explain",), ("units", "--records-per-unit", "user=3")):
        out = dpmi(*command, "--account", file(seeded), "--delta", "1e-4").out
        assert "But: conditional on the partition" in out
        assert "But: not private: noise and sampling came from a user's seed" in out


def test_several_noises_in_one_table(dpmi: Dpmi, file: Any) -> None:
    history = opacus((2.0, 0.01, 300), (1.0, 0.01, 300))
    outcome = dpmi("explain", "--opacus", file(history), "--delta", "1e-5", "--json")
    rows = {(row["accountant"], row["adjacency"]): row for row in json.loads(outcome.out)}
    ledger = Ledger()
    for noise in (2.0, 1.0):
        ledger = ledger.record(BucketMechanism(sampling_rate=0.01, noise_multiplier=noise), 300)
    tight = ledger.guarantee(delta=1e-5, unit="record", adjacency="add_remove").epsilon
    assert rows["tight", "add_remove"]["epsilon"] == tight
    assert rows["tight", "add_remove"]["unit"] == "record"
    assert tight < rows["opacus-rdp", "add_remove"]["epsilon"] < 1.5 * tight
    assert tight < rows["opacus-prv", "add_remove"]["epsilon"] < tight + 0.05
    assert rows["opacus-gdp", "add_remove"]["epsilon"] is None
    assert "one noise multiplier and one sampling rate" in rows["opacus-gdp", "add_remove"]["reason"]


def test_opacus_runs_say_what_the_file_cannot(dpmi: Dpmi, file: Any) -> None:
    path = file(opacus((1.6, 0.2, 200)))
    for command in (("explain",), ("epsilon",), ("units", "--records-per-unit", "user=2")):
        outcome = dpmi(*command, "--opacus", path, "--delta", "1e-3")
        assert (outcome.code, outcome.err) == (0, "")
        assert "only if poisson_sampling was True" in outcome.out


def test_a_selection_or_a_filter_is_one_answer(dpmi: Dpmi, file: Any) -> None:
    for rule in (Tries(mean=5), PrivacyFilter.planned(STEP, target_epsilon=30, delta=1e-3)):
        account = dataclasses.replace(ACCOUNT, rule=rule)
        found = json.loads(dpmi("epsilon", "--account", file(account), "--delta", "1e-4", "--json").out)
        assert [g["epsilon"] for g in found] == [
            account.guarantee(1e-4, adjacency=adjacency).epsilon for adjacency in ("replace", "add_remove")
        ]
        for command in (("explain",), ("units", "--records-per-unit", "user=2")):
            check_mistake(
                dpmi(*command, "--account", file(account), "--delta", "1e-4"),
                "the account is of",
                "composes steps",
            )


def test_a_larger_unit_of_an_account(dpmi: Dpmi, file: Any) -> None:
    options = (
        "--account",
        file(ACCOUNT),
        "--delta",
        "1e-4",
        "--records-per-unit",
        "3",
        "--unit",
        "person",
        "--json",
    )
    found = json.loads(dpmi("epsilon", *options).out)
    assert [(g["unit"], g["adjacency"], g["epsilon"]) for g in found] == [
        (
            "person",
            adjacency,
            LEDGER.guarantee(delta=1e-4, unit="person", adjacency=adjacency, buckets_per_unit=3).epsilon,
        )
        for adjacency in ADJACENCIES
    ]


def test_an_account_of_owners(dpmi: Dpmi, file: Any) -> None:
    owners = dataclasses.replace(ACCOUNT, unit="person", buckets_per_unit=3, provenance=Provenance.OWNERS)
    path = file(owners)
    found = json.loads(dpmi("epsilon", "--account", path, "--delta", "1e-4", "--json").out)
    assert {g["accountant"]: g["epsilon"] for g in found if g["adjacency"] == "replace"} == {
        "tight": owners.guarantee(1e-4).epsilon
    }
    assert "conditional on who owns which record" in found[0]["caveats"][0]
    for command in (("explain",), ("units", "--records-per-unit", "user=2"), ("epsilon", "--plot", "a.png")):
        check_mistake(
            dpmi(*command, "--account", path, "--delta", "1e-4"),
            "one person of the account owns up to 3 buckets",
        )
    check_mistake(
        dpmi("epsilon", "--account", path, "--delta", "1e-4", "--records-per-unit", "2"),
        "--records-per-unit is 2, but the account is for persons that own up to 3 buckets",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--sampling-rate is missing", "--account or --opacus")),
        (NUMBERS[:4], ("--steps is missing",)),
        (NUMBERS, ("--unit is missing",)),
        (
            (*NUMBERS, "--account", "FILE"),
            ("--account describes the whole run", "--sampling-rate is given, too"),
        ),
        (
            ("--account", "FILE", "--opacus", "FILE"),
            ("--account describes the whole run", "--opacus is given, too"),
        ),
        (("--account", "FILE", "--unit", "user"), ("--unit is 'user'", "the account is for one subclass")),
        (("--account", "FILE", "--buckets", "10"), ("--buckets is 10, but the account has 500",)),
        (("--account", "none.json"), ("none.json",)),
        (("--account", "."), ("Is a directory",)),
        (("--opacus", "FILE"), ("cannot be read as tensors and plain values",)),
    ],
)
def test_bad_input(dpmi: Dpmi, file: Any, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    path = file(ACCOUNT)
    given = [path if option == "FILE" else option for option in options]
    check_mistake(dpmi("epsilon", *given, "--delta", "1e-4"), *words)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "dpmi-ledger"}', "\x00\x01"])
def test_what_is_no_account(dpmi: Dpmi, tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    check_mistake(dpmi("epsilon", "--account", path, "--delta", "1e-4", "--unit", "user"), "run.json: ")
    path.write_bytes(b"\xff\xfe\x00")
    check_mistake(dpmi("epsilon", "--account", path, "--delta", "1e-4", "--unit", "user"), "run.json: ")
