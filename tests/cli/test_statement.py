"""``dpmi statement``: what is promised, from the accounts that were saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from accountants import BucketMechanism, Ledger
from dpmi.privacy import Account, Provenance, Statement
from dpmi.privacy.noise import NoiseMode

from .conftest import Dpmi, check_mistake


class TestStatement:
    """Files as ``engine.account.to_json()`` gives them."""

    DELTA = ("--delta", "1e-3")

    @pytest.fixture
    def saved(self, tmp_path: Path) -> dict[str, Path]:
        ledger = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200)
        by_class = Account(
            ledger=ledger,
            unit="class",
            buckets=10,
            provenance=Provenance.RECORD,
            partition_hash="ab" * 32,
            max_grad_norms=(3.0,),
            noise=NoiseMode.ORDINARY,
        )
        accounts = {
            "search": replace(by_class, ledger=ledger + ledger),
            "final": by_class,
            "subclass": replace(
                by_class, unit="subclass", provenance=Provenance.FITTED, partition_hash="cd" * 32
            ),
        }
        paths = {name: tmp_path / f"{name} account.json" for name in accounts}
        for name, account in accounts.items():
            paths[name].write_text(account.to_json(), encoding="utf-8")
        return paths

    def test_markdown_of_one(self, dpmi: Dpmi, saved: dict[str, Path]) -> None:
        outcome = dpmi(
            "statement", saved["final"], *self.DELTA, "--not-accounted", "a", "--not-accounted", "b"
        )
        assert (outcome.code, outcome.err) == (0, "")
        account = Account.from_json(saved["final"].read_text(encoding="utf-8"))
        assert (
            outcome.out
            == Statement(accounts=(account,), delta=1e-3, not_accounted=("a", "b")).markdown() + "\n"
        )
        assert "(epsilon = 15.924, delta = 0.001)" in outcome.out

    def test_json_of_several(self, dpmi: Dpmi, saved: dict[str, Path]) -> None:
        outcome = dpmi("statement", *saved.values(), *self.DELTA, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        fields = json.loads(outcome.out)
        assert next(iter(fields)) == "reservations"
        assert fields["reservations"] == ["conditional on the partition"]
        assert "no common epsilon" in fields["separate_because"]
        assert [(p["unit"], p["steps"]) for p in fields["promises"]] == [("class", 600), ("subclass", 200)]
        together = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 600)
        direct = together.guarantee(delta=1e-3, unit="class")
        assert fields["promises"][0]["guarantees"][0]["epsilon"] == direct.epsilon

    def test_a_large_delta_warns(self, dpmi: Dpmi, saved: dict[str, Path]) -> None:
        outcome = dpmi("statement", saved["final"], "--delta", "0.1")
        assert outcome.code == 0
        assert "Caveat: delta = 0.1 is not below 1/K with K = 10 buckets" in outcome.out
        assert outcome.err.startswith("dpmi: warning: delta = 0.1 is not below 1/K with K = 10 buckets")

    def test_mistakes(self, dpmi: Dpmi, saved: dict[str, Path], tmp_path: Path) -> None:
        final = saved["final"]
        check_mistake(dpmi("statement", *self.DELTA), "Missing argument")
        check_mistake(dpmi("statement", final), "Missing option '--delta'")
        check_mistake(dpmi("statement", final, "--delta", "1"), "delta must be in (0, 1), got 1.0")
        check_mistake(
            dpmi("statement", final, *self.DELTA, "--not-accounted", " "), "not_accounted must hold no empty"
        )
        check_mistake(
            dpmi("statement", final, final, *self.DELTA), f"{final} is given twice, so its steps would be"
        )
        check_mistake(dpmi("statement", tmp_path / "no.json", *self.DELTA), "No such file", "no.json")
        check_mistake(dpmi("statement", tmp_path, *self.DELTA), "Is a directory", str(tmp_path))
        damaged = tmp_path / "damaged.json"
        damaged.write_text(final.read_text(encoding="utf-8")[:-1], encoding="utf-8")
        check_mistake(
            dpmi("statement", final, damaged, *self.DELTA), f"{damaged}: account: not JSON, or truncated"
        )
        damaged.write_bytes(b"\xff\xfe\x00")
        check_mistake(dpmi("statement", damaged, *self.DELTA), f"{damaged}: ", "utf-8")
