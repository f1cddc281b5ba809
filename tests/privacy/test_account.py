"""Accounts: saved and read back, refused when damaged, and added up as far as they add up."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accountants import BucketMechanism, Ledger, epsilon
from accountants.sealed_json import digest
from dpmi.privacy import Account, Partition, Provenance, combine
from dpmi.privacy.finding import Check, Estimate, Finding
from dpmi.privacy.noise import NoiseMode

from .test_engine import step, wrap

STEP = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
OTHER = BucketMechanism(sampling_rate=0.1, noise_multiplier=3.0)
ACCOUNT = Account(
    ledger=Ledger().record(STEP, 200),
    unit="class",
    buckets=10,
    provenance=Provenance.RECORD,
    partition_hash="ab" * 32,
    max_grad_norms=(3.0,),
    noise=NoiseMode.SECURE,
)

accounts = st.builds(
    Account,
    ledger=st.lists(st.integers(1, 1000), max_size=3).map(
        lambda counts: Ledger(tuple((STEP, steps) for steps in counts))
    ),
    unit=st.text(min_size=1).filter(lambda text: bool(text.strip()) and text.splitlines() == [text]),
    buckets=st.integers(1, 10**6),
    provenance=st.sampled_from(Provenance),
    partition_hash=st.binary(min_size=32, max_size=32).map(bytes.hex),
    max_grad_norms=st.lists(
        st.floats(min_value=0, exclude_min=True, allow_infinity=False), min_size=1, max_size=3
    ).map(tuple),
    noise=st.sampled_from(NoiseMode),
)


def but(**facts: Any) -> Account:
    return dataclasses.replace(ACCOUNT, **facts)


@given(accounts)
def test_an_account_reads_back_as_it_was(account: Account) -> None:
    text = account.to_json()
    assert Account.from_json(text) == account
    assert Account.from_json(text).to_json() == text


def test_the_account_of_an_engine_reads_back_as_it_was() -> None:
    engine, module, optimizer, loader = wrap(steps_per_epoch=4, max_grad_norm=2.0)
    for x, y in loader:
        step(module, optimizer, x, y)
    assert engine.account.noise is NoiseMode.ORDINARY
    _, module, optimizer, loader = wrap(engine=engine, steps_per_epoch=3, max_grad_norm=1.0, seed=0)
    for x, y in loader:
        step(module, optimizer, x, y)
    account = engine.account
    assert account.ledger.steps == 7
    assert account.max_grad_norms == (1.0, 2.0)
    assert account.noise is NoiseMode.SEEDED
    again = Account.from_json(account.to_json())
    assert again == account
    assert again.guarantee(1e-3) == engine.guarantee(1e-3)


def test_the_text_is_what_an_auditor_can_read() -> None:
    document = json.loads(but(max_grad_norms=(3, 1.0, 3.0)).to_json())
    sha256 = document.pop("sha256")
    assert sha256 == digest(document)
    assert document == {
        "format": "dpmi-account",
        "version": 2,
        "unit": "class",
        "buckets": 10,
        "provenance": "RECORD",
        "partition_hash": "ab" * 32,
        "max_grad_norms": [1.0, 3.0],
        "noise": "SECURE",
        "ledger": json.loads(ACCOUNT.ledger.to_json()),
    }


def test_cut_anywhere() -> None:
    text = ACCOUNT.to_json()
    for length in range(len(text)):
        with pytest.raises(ValueError, match=r"^account: not JSON, or truncated"):
            Account.from_json(text[:length])


def test_without_one_character_anywhere() -> None:
    """Either refused, or the character was white space."""
    text = ACCOUNT.to_json()
    for at in range(len(text)):
        damaged = text[:at] + text[at + 1 :]
        if text[at].isspace():
            assert Account.from_json(damaged) == ACCOUNT
        else:
            with pytest.raises(ValueError, match=r"^account: "):
                Account.from_json(damaged)


def changed(**parts: Any) -> str:
    """A document that is whole, hash included, but for its content."""
    content = {k: v for k, v in json.loads(ACCOUNT.to_json()).items() if k != "sha256"}
    content |= parts
    content = {k: v for k, v in content.items() if v is not ...}
    return json.dumps({**content, "sha256": digest(content)})


LEDGER = json.loads(ACCOUNT.ledger.to_json())
KEYS = "expected the keys buckets, format, ledger, max_grad_norms, noise, partition_hash, provenance, sha256, unit"
REFUSED = {
    "": "not JSON, or truncated",
    ACCOUNT.ledger.to_json(): "expected an object with the format 'dpmi-account', got {",
    changed(version=1): "version must be 2, got 1: another version of dpmi wrote it",
    changed(noise=...): f"{KEYS}, version; missing: noise, unknown: none",
    changed(epsilon=1.0): f"{KEYS}, version; missing: none, unknown: 'epsilon'",
    changed(unit=""): "unit must say what one bucket is in one line",
    changed(unit="a\nb"): "unit must say what one bucket is in one line",
    changed(unit=None): "unit must say what one bucket is in one line",
    changed(buckets=0): "buckets must be at least 1, got 0",
    changed(buckets=10.0): "buckets must be an integer, got 10.0 (float)",
    changed(provenance="record"): "provenance must be one of RECORD, PUBLIC, FITTED, OWNERS, got 'record'",
    changed(
        provenance=["RECORD"]
    ): "provenance must be one of RECORD, PUBLIC, FITTED, OWNERS, got ['RECORD']",
    changed(partition_hash="ab"): "partition_hash must be 64 hexadecimal digits, got 'ab'",
    changed(partition_hash=3): "partition_hash must be 64 hexadecimal digits, got 3",
    changed(max_grad_norms=3.0): "max_grad_norms must be a list, got 3.0",
    changed(max_grad_norms=[]): "max_grad_norms must be one or more numbers above 0, got []",
    changed(max_grad_norms=[1.0, 0]): "max_grad_norms must be one or more numbers above 0, got [0.0, 1.0]",
    changed(max_grad_norms=["1"]): "max_grad_norms must be a real number, got '1' (str)",
    changed(noise="secure"): "noise must be one of SECURE, ORDINARY, SEEDED, got 'secure'",
    changed(noise=True): "noise must be one of SECURE, ORDINARY, SEEDED, got True",
    changed(ledger=[]): "ledger: expected an object with the format 'dpmi-ledger', got []",
    changed(ledger={**LEDGER, "steps": 199}): "ledger: steps must be 200, the sum over the runs, got 199",
    changed(ledger={**LEDGER, "sha256": "0"}): f"ledger: sha256 must be {ACCOUNT.ledger.hash} for this",
    ACCOUNT.to_json().replace('"SECURE"', '"SEEDED"'): "sha256 must be ",
    ACCOUNT.to_json().replace("RECORD", "PUBLIC"): "sha256 must be ",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refused_with_the_part_the_value_and_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Account.from_json(text)
    assert str(caught.value).startswith(f"account: {message}")


def test_an_unchanged_copy_by_the_helper_above_is_accepted() -> None:
    assert Account.from_json(changed()) == ACCOUNT


@pytest.mark.parametrize(
    "facts", [{"buckets": 0}, {"max_grad_norms": ()}, {"noise": "SECURE"}, {"partition_hash": "AB" * 32}]
)
def test_what_no_run_can_have_is_refused_when_the_account_is_made(facts: dict[str, Any]) -> None:
    (name,) = facts
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        but(**facts)


class TestCombine:
    def test_runs_on_one_partition_are_one_longer_run(self) -> None:
        """A search of two runs with other clipping norms, and the final run."""
        second = but(ledger=Ledger().record(OTHER, 50), max_grad_norms=(1.0,))
        (both,) = combine([ACCOUNT, second, ACCOUNT])
        assert both == but(ledger=Ledger(((STEP, 200), (OTHER, 50), (STEP, 200))), max_grad_norms=(1.0, 3.0))
        direct = Ledger().record(STEP, 400).record(OTHER, 50).guarantee(delta=1e-3, unit="class")
        assert both.guarantee(1e-3).epsilon == pytest.approx(direct.epsilon, rel=1e-12)
        assert both.guarantee(1e-3).epsilon > ACCOUNT.guarantee(1e-3).epsilon

    @pytest.mark.parametrize(
        ("one", "other", "weakest"),
        [
            (NoiseMode.SECURE, NoiseMode.SECURE, NoiseMode.SECURE),
            (NoiseMode.SECURE, NoiseMode.ORDINARY, NoiseMode.ORDINARY),
            (NoiseMode.SECURE, NoiseMode.SEEDED, NoiseMode.SEEDED),
            (NoiseMode.ORDINARY, NoiseMode.ORDINARY, NoiseMode.ORDINARY),
            (NoiseMode.ORDINARY, NoiseMode.SEEDED, NoiseMode.SEEDED),
            (NoiseMode.SEEDED, NoiseMode.SEEDED, NoiseMode.SEEDED),
        ],
    )
    def test_the_sum_has_the_weakest_noise(
        self, one: NoiseMode, other: NoiseMode, weakest: NoiseMode
    ) -> None:
        for order in ((one, other), (other, one)):
            (both,) = combine(but(noise=noise) for noise in order)
            assert both.noise is weakest
            assert both.guarantee(1e-3).is_guarantee is (weakest is not NoiseMode.SEEDED)

    def test_other_partitions_stay_apart(self) -> None:
        fine = but(partition_hash="cd" * 32, unit="subclass", buckets=200, provenance=Provenance.FITTED)
        first, second = combine([ACCOUNT, fine, ACCOUNT])
        assert first == but(ledger=Ledger().record(STEP, 400))
        assert second == fine

    def test_one_or_none(self) -> None:
        assert combine([ACCOUNT]) == (ACCOUNT,)
        assert combine([]) == ()

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("unit", "person", "unit is 'class' in one and 'person' in the other"),
            ("buckets", 11, "buckets is 10 in one and 11 in the other"),
            ("provenance", Provenance.FITTED, "provenance is "),
            ("buckets_per_unit", 2, "buckets_per_unit is 1 in one and 2 in the other"),
        ],
    )
    def test_one_hash_of_two_partitions_is_refused(self, name: str, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=f"partition abababababababab, but {message}"):
            combine([ACCOUNT, but(**{name: value})])

    def test_two_engines_on_one_partition_cost_what_one_engine_costs(self) -> None:
        partition = Partition.by_class(np.arange(24) % 3)

        def train(engine: Any, noise_multiplier: float) -> Any:
            engine, module, optimizer, loader = wrap(
                engine=engine, partition=partition, noise_multiplier=noise_multiplier, steps_per_epoch=4
            )
            for x, y in loader:
                step(module, optimizer, x, y)
            return engine

        one = train(train(None, 1.0), 2.0)
        assert combine([train(None, 1.0).account, train(None, 2.0).account]) == (one.account,)


class TestSeveralBuckets:
    """Units that own up to three of the ten buckets."""

    SHARED = but(unit="user", provenance=Provenance.OWNERS, buckets_per_unit=3)

    @pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
    def test_the_guarantee_is_for_the_unit(self, adjacency: Any) -> None:
        direct = epsilon(
            sampling_rate=0.2,
            noise_multiplier=1.6,
            steps=200,
            delta=1e-3,
            unit="user",
            adjacency=adjacency,
            buckets_per_unit=3,
        )
        found = self.SHARED.guarantee(1e-3, adjacency=adjacency)
        assert found.epsilon == direct.epsilon > 2 * ACCOUNT.guarantee(1e-3, adjacency=adjacency).epsilon
        assert found.caveats[0].startswith("conditional on who owns which record, which counts as public")
        assert "for every user that owns at most 3 of the separately sampled buckets" in found.caveats

    @pytest.mark.parametrize("accountant", ["lemma3", "theorem1"])
    def test_accountants_of_one_bucket_are_refused(self, accountant: str) -> None:
        with pytest.raises(ValueError, match="covers units that own one bucket"):
            self.SHARED.guarantee(1e-3, accountant=accountant)

    def test_it_reads_back_in_a_version_of_its_own(self) -> None:
        text = self.SHARED.to_json()
        assert json.loads(text)["version"] == 5
        assert json.loads(text)["buckets_per_unit"] == 3
        again = Account.from_json(text)
        assert again == self.SHARED
        assert again.guarantee(1e-3) == self.SHARED.guarantee(1e-3)
        (twice,) = combine([again, again])
        assert twice == dataclasses.replace(self.SHARED, ledger=Ledger().record(STEP, 400))

    @pytest.mark.parametrize("facts", [{}, {"adaptive": True}, {"provenance": Provenance.OWNERS}])
    def test_units_of_one_bucket_keep_their_files(self, facts: dict[str, Any]) -> None:
        document = json.loads(but(**facts).to_json())
        assert document["version"] == (4 if facts.get("adaptive") else 2)
        assert "buckets_per_unit" not in document

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"buckets_per_unit": ...}, "missing: buckets_per_unit, unknown: none"),
            ({"buckets_per_unit": 0}, "buckets_per_unit must be at least 1, got 0"),
            ({"buckets_per_unit": 2.0}, "buckets_per_unit must be an integer, got 2.0"),
            ({"buckets_per_unit": 11}, "buckets_per_unit must be at most 10, the number of buckets, got 11"),
            ({"buckets_per_unit": 1}, "sha256 must be"),
            ({"version": 4}, "missing: none, unknown: 'buckets_per_unit'"),
            ({"version": 7}, "version must be 2, got 7"),
        ],
    )
    def test_a_file_without_the_number_is_refused(self, parts: dict[str, Any], message: str) -> None:
        content = {k: v for k, v in json.loads(self.SHARED.to_json()).items() if k != "sha256"} | parts
        content = {k: v for k, v in content.items() if v is not ...}
        with pytest.raises(ValueError, match=message):
            Account.from_json(json.dumps({**content, "sha256": digest(content)}))


@pytest.mark.parametrize("unit", ["", " ", "a\nb"])
def test_a_partition_whose_unit_could_not_be_stated_is_refused_before_training(unit: str) -> None:
    with pytest.raises(ValueError, match="unit must say what one bucket is in one line"):
        Partition.by_column(torch.arange(3).numpy(), unit=unit)


def test_findings_of_audits_read_back_and_older_accounts_have_none() -> None:
    finding = Finding(
        canaries=20,
        confidence=0.95,
        claimed=Estimate(sampling_rate=0.2, noise_multiplier=1.6, steps=3),
        at_least=Estimate(sampling_rate=0.1, noise_multiplier=2.0, steps=3),
        ceiling=Estimate(sampling_rate=0.15, noise_multiplier=1.8, steps=3),
        checks=(Check(name="noise", claimed=1.0, found=1.01, p_value=0.4),),
    )
    plain = ACCOUNT
    audited = dataclasses.replace(plain, findings=(finding,))
    assert Account.from_json(audited.to_json()) == audited
    assert json.loads(plain.to_json())["version"] == 2
    assert "findings" not in json.loads(plain.to_json())
    assert json.loads(audited.to_json())["version"] == 3
    (together,) = combine([audited, plain, audited])
    assert together.findings == (finding, finding)
    content = json.loads(audited.to_json())
    del content["findings"][0]["checks"]
    with pytest.raises(
        ValueError, match=r"findings: a finding is incomplete or has an unknown part: 'checks'"
    ):
        Account.from_json(json.dumps(content))
    content = json.loads(audited.to_json())
    content["findings"][0]["checks"][0]["p_value"] = 0.5
    with pytest.raises(ValueError, match="sha256"):
        Account.from_json(json.dumps(content))
