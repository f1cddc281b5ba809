"""The privacy statement: everything that is promised is there, in all three forms, and the worst news first."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import pytest

from accountants import BucketMechanism, Ledger, PrivacyProfile
from dpmi.privacy import Account, Provenance, Statement
from dpmi.privacy.noise import NoiseMode
from dpmi.privacy.statement import NOT_ACCOUNTED, SEPARATE

from .test_account import ACCOUNT, OTHER, STEP, but
from .test_finding import finding

SUBCLASS = but(
    unit="subclass",
    buckets=200,
    provenance=Provenance.FITTED,
    partition_hash="cd" * 32,
    max_grad_norms=(1.0, 2.5),
    ledger=Ledger().record(STEP, 50).record(OTHER, 30),
)
VERSIONS = {"python": platform.python_version()} | {
    name: version(name) for name in ("dpmi", "torch", "opacus", "dp-accounting", "numpy")
}


def stated(account: Account, delta: float, *, not_accounted: Sequence[str] = ()) -> Statement:
    return Statement(accounts=(account,), delta=delta, not_accounted=not_accounted)


def forms(statement: Statement) -> tuple[str, str, dict[str, Any]]:
    """Markdown, text, and what a program reads from the JSON."""
    fields = json.loads(json.dumps(statement.to_dict(), allow_nan=False))
    return statement.markdown(), statement.text(), fields


def test_all_of_the_markdown() -> None:
    replaced, added = (ACCOUNT.guarantee(1e-3, adjacency=a) for a in ("replace", "add_remove"))
    caveats = [f"- Caveat: {c} (adjacency: {g.adjacency})" for g in (replaced, added) for c in g.caveats]
    if replaced.caveats == added.caveats:
        caveats = [f"- Caveat: {c}" for c in replaced.caveats]
    statement = stated(ACCOUNT, 1e-3, not_accounted=("learning-rate search\n on 3 values",))
    assert statement.markdown().splitlines() == [
        "# Privacy statement",
        "",
        "## For one class (partition abababababababab)",
        "",
        "- class-level (epsilon = 15.924, delta = 0.001) differential privacy, one class replaced, after 200 steps "
        "(accountant: tight).",
        "- class-level (epsilon = 7.448, delta = 0.001) differential privacy, one class added or removed, after "
        "200 steps (accountant: tight).",
        *caveats,
        "- Steps charged: 200 with sampling rate 0.2 and noise multiplier 1.6",
        "- Gaussian DP: mu = 3.473 (replace), 2.080 (add_remove), but for a failure of probability 1e-10",
        f"- Ledger: SHA-256 {ACCOUNT.ledger.hash}",
        "- Sampling: every class is drawn as a whole and independently of the others, with the sampling rate as its "
        "probability (Poisson sampling); an empty draw is also a step, with noise only, and is charged",
        "- Noise: the mean gradient of every drawn class is clipped to norm 3, and Gaussian noise is added to their "
        "sum; its standard deviation is the noise multiplier times that norm",
        "- Randomness: OpenSSL's cryptographically secure generator, keyed by the operating system; every noise value "
        "is half the sum of four samples, rounded once, against floating-point attacks (arXiv 2107.10138)",
        "- Partition: 10 buckets, computed from each record alone (its label, or its own column); SHA-256 "
        + "ab" * 32,
        "- Public: the number of buckets (10), the divisor (sampling rate times number of buckets), and every "
        "hyper-parameter",
        "- Assumed: the training loop itself carries no values from one batch to the next: no running average of the "
        "loss and no list of earlier outputs, in a local or global variable, enters a later loss",
        "",
        "## Not accounted",
        "",
        "- choices made by looking at results on the private records: hyper-parameters, the number of runs and steps, "
        "the selection of one of several models",
        "- anything else that was computed from the private records and released: accuracies, normalisation "
        "constants, further models",
        "- learning-rate search on 3 values",
        "",
        "## This statement was computed by",
        "",
        *(f"- {name} {number}" for name, number in VERSIONS.items()),
    ]


def test_all_of_the_json() -> None:
    _, _, fields = forms(stated(SUBCLASS, 1e-3, not_accounted=("clip-norm search",)))
    assert list(fields) == ["reservations", "promises", "public_parts", "not_accounted", "computed_by"]
    assert fields["reservations"] == ["conditional on the partition"]
    (promise,) = fields["promises"]
    assert promise["guarantees"] == [
        SUBCLASS.guarantee(1e-3, adjacency=adjacency).to_dict() for adjacency in ("replace", "add_remove")
    ]
    assert promise["partition"] == {
        "buckets": 200,
        "provenance": "fitted on the private records",
        "conditional": True,
        "buckets_per_unit": 1,
        "sha256": "cd" * 32,
    }
    assert {
        key: promise[key]
        for key in ("unit", "steps", "runs", "ledger_sha256", "max_grad_norms", "noise_mode", "randomness")
    } == {
        "unit": "subclass",
        "steps": 80,
        "runs": [
            {"sampling_rate": 0.2, "noise_multiplier": 1.6, "steps": 50},
            {"sampling_rate": 0.1, "noise_multiplier": 3.0, "steps": 30},
        ],
        "ledger_sha256": SUBCLASS.ledger.hash,
        "max_grad_norms": [1.0, 2.5],
        "noise_mode": "SECURE",
        "randomness": NoiseMode.SECURE.value,
    }
    assert "every subclass is drawn as a whole" in promise["sampling"]
    assert "clipped to norm 1 or 2.5, and Gaussian noise" in promise["noise"]
    assert "the number of buckets (200)" in promise["public"]
    assert fields["not_accounted"] == [*NOT_ACCOUNTED, "clip-norm search"]
    assert fields["computed_by"] == VERSIONS


def test_the_text_is_one_paragraph_that_says_as_much_as_the_markdown() -> None:
    statement = Statement(accounts=(ACCOUNT, SUBCLASS), delta=1e-3, not_accounted=("a", "b"))
    text = statement.text()
    assert text.splitlines() == [text]
    lines = [line.lstrip("#- ").rstrip(".") for line in statement.markdown().splitlines()]
    headings = ("Not accounted", "This statement was computed by")
    assert [line for line in lines if line not in headings and line not in text] == []
    assert "the selection of one of several models; anything else" in text
    assert text.endswith(
        f"further models; a; b. Computed by {', '.join(f'{k} {v}' for k, v in VERSIONS.items())}."
    )


@pytest.mark.parametrize(
    ("provenance", "noise", "reservations"),
    [
        (Provenance.RECORD, NoiseMode.SECURE, []),
        (Provenance.RECORD, NoiseMode.ORDINARY, []),
        (Provenance.PUBLIC, NoiseMode.ORDINARY, []),
        (Provenance.FITTED, NoiseMode.SECURE, ["conditional on the partition"]),
        (Provenance.RECORD, NoiseMode.SEEDED, ["not private: seeded noise"]),
        (
            Provenance.FITTED,
            NoiseMode.SEEDED,
            ["conditional on the partition", "not private: seeded noise"],
        ),
    ],
)
def test_the_first_words_are_the_worst_news(
    provenance: Provenance, noise: NoiseMode, reservations: list[str]
) -> None:
    markdown, text, fields = forms(stated(but(provenance=provenance, noise=noise), 1e-3))
    title = "Privacy statement" + (f", {'; '.join(reservations)}" if reservations else "")
    assert markdown.splitlines()[0] == f"# {title}"
    assert text.startswith(f"{title}. For one class (partition abababababababab): ")
    assert next(iter(fields)) == "reservations"
    assert fields["reservations"] == reservations
    seeded = noise is NoiseMode.SEEDED
    for form in (markdown, text):
        assert ("conditional" in form) is (provenance is Provenance.FITTED)
        assert ("came from a user's seed" in form) is seeded
        assert ("Not a guarantee, for comparison only" in form) is seeded
    assert all(g["is_guarantee"] is not seeded for p in fields["promises"] for g in p["guarantees"])


@pytest.mark.parametrize("owned", [1, 3])
def test_owners_are_told_what_is_public_and_what_is_drawn(owned: int) -> None:
    account = but(unit="user", provenance=Provenance.OWNERS, buckets_per_unit=owned, findings=(finding(0.4),))
    markdown, text, fields = forms(stated(account, 1e-3))
    title = "Privacy statement, conditional on who owns which record"
    assert markdown.splitlines()[0] == f"# {title}"
    assert text.startswith(f"{title}. For one user (partition abababababababab): user-level (epsilon = ")
    (promise,) = fields["promises"]
    assert promise["partition"]["conditional"]
    assert promise["partition"]["buckets_per_unit"] == owned
    for form in (markdown, text):
        assert "Caveat: conditional on who owns which record, which counts as public: neighbouring" in form
        assert "every bucket is drawn as a whole" in form
        assert "mean gradient of every drawn bucket is clipped" in form
        assert "Public: who owns which record, and so which records were left out, the number of" in form
        assert ("; one user owns at most 3 of them; SHA-256" in form) is (owned == 3)
        assert ("for every user that owns at most 3 of the separately sampled buckets" in form) is (
            owned == 3
        )
        assert ("Audit of one bucket, as a part of one user: consistent" in form) is (owned == 3)
    for found, adjacency in zip(promise["guarantees"], ("replace", "add_remove"), strict=True):
        profile = PrivacyProfile(
            ledger=account.ledger,
            unit="user",
            adjacency=adjacency,  # type: ignore[arg-type]
            buckets_per_unit=owned,
        )
        assert promise["mu"][adjacency] == profile.mu
        assert found["epsilon"] == account.guarantee(1e-3, adjacency=adjacency).epsilon  # type: ignore[arg-type]
        # What an audit finds of one bucket is no more than is stated for the unit that owns it.
        assert promise["audits"][0]["lower_bound"][adjacency] < found["epsilon"]
    assert promise["audits"][0]["unit"] == "bucket"


def test_every_form_says_where_the_noise_came_from() -> None:
    said = {
        NoiseMode.SECURE: "OpenSSL's cryptographically secure generator, keyed by the operating system; ",
        NoiseMode.ORDINARY: "torch's generator, seeded by the operating system; it is not cryptographically secure, "
        "and floating-point attacks on the noise are not excluded",
        NoiseMode.SEEDED: "torch's generator, seeded by the user; ",
    }
    for noise, words in said.items():
        markdown, text, fields = forms(stated(but(noise=noise), 1e-3))
        assert sum(line.startswith(f"- Randomness: {words}") for line in markdown.splitlines()) == 1
        assert f" Randomness: {words}" in text
        (promise,) = fields["promises"]
        assert promise["noise_mode"] == noise.name
        assert promise["randomness"].startswith(words)


def test_one_seeded_partition_of_two_is_named_in_the_first_line_and_in_its_own_place() -> None:
    markdown, _, fields = forms(
        Statement(accounts=(ACCOUNT, but(partition_hash="cd" * 32, noise=NoiseMode.SEEDED)), delta=1e-3)
    )
    assert markdown.splitlines()[0] == "# Privacy statement, not private: seeded noise"
    assert [p["noise_mode"] for p in fields["promises"]] == ["SECURE", "SEEDED"]


def test_runs_on_one_partition_are_one_promise() -> None:
    search = but(ledger=Ledger().record(OTHER, 50), max_grad_norms=(1.0,))
    markdown, _, fields = forms(Statement(accounts=(search, ACCOUNT), delta=1e-3))
    (promise,) = fields["promises"]
    direct = Ledger().record(STEP, 200).record(OTHER, 50).guarantee(delta=1e-3, unit="class")
    assert promise["guarantees"][0]["epsilon"] == pytest.approx(direct.epsilon, rel=1e-12)
    assert "separate_because" not in fields
    assert SEPARATE not in markdown
    assert (
        "- Steps charged: 250 in total: 50 with sampling rate 0.1 and noise multiplier 3; "
        "200 with sampling rate 0.2 and noise multiplier 1.6"
    ) in markdown.splitlines()
    assert "is clipped to norm 1 or 3, and" in markdown


def test_two_partitions_are_two_promises_and_the_reason_why() -> None:
    markdown, text, fields = forms(Statement(accounts=(ACCOUNT, SUBCLASS, ACCOUNT), delta=1e-3))
    lines = markdown.splitlines()
    assert lines[:3] == ["# Privacy statement, conditional on the partition", "", SEPARATE]
    assert [line for line in lines if line.startswith("## For")] == [
        "## For one class (partition abababababababab)",
        "## For one subclass (partition cdcdcdcdcdcdcdcd)",
    ]
    assert SEPARATE in text
    assert "they have no common epsilon" in SEPARATE
    assert "does not bound what the other runs reveal about that unit" in SEPARATE
    assert fields["separate_because"] == SEPARATE
    first, second = fields["promises"]
    assert (first["unit"], first["steps"]) == ("class", 400)
    assert (second["unit"], second["steps"]) == ("subclass", 80)
    doubled = Ledger().record(STEP, 400).guarantee(delta=1e-3, unit="class").epsilon
    assert first["guarantees"][0]["epsilon"] == doubled
    assert second["guarantees"][0]["epsilon"] == SUBCLASS.guarantee(1e-3).epsilon
    assert not any("epsilon" in key for key in fields), "no epsilon outside of a guarantee"


def test_a_delta_as_large_as_one_over_the_number_of_buckets_is_a_caveat() -> None:
    with pytest.warns(UserWarning, match="K = 10 buckets"):
        statement = stated(ACCOUNT, 0.1)
    caveat = "delta = 0.1 is not below 1/K with K = 10 buckets"
    markdown, text, fields = forms(statement)
    assert sum(line.startswith(f"- Caveat: {caveat}") for line in markdown.splitlines()) == 1
    assert f"Caveat: {caveat}" in text
    for guarantee in fields["promises"][0]["guarantees"]:
        assert any(c.startswith(caveat) for c in guarantee["caveats"])


def test_no_noise_is_an_infinite_epsilon_in_valid_json() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        none = BucketMechanism(sampling_rate=0.2, noise_multiplier=0)
    markdown, _, fields = forms(stated(but(ledger=Ledger().record(none, 5)), 1e-3))
    assert [g["epsilon"] for g in fields["promises"][0]["guarantees"]] == ["inf", "inf"]
    assert markdown.count("epsilon = inf") == 2


def test_nothing_released_is_stated_too() -> None:
    markdown, _, fields = forms(stated(but(ledger=Ledger()), 1e-3))
    assert "- Steps charged: none" in markdown.splitlines()
    assert [g["epsilon"] for g in fields["promises"][0]["guarantees"]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accounts": ()}, "accounts is empty; a statement needs at least 1 account"),
        ({"not_accounted": "search"}, "not_accounted must be a sequence of texts, got the string 'search'"),
        ({"not_accounted": ("a", " ")}, r"not_accounted must hold no empty text, got \('a', ' '\)"),
        ({"public_parts": "features"}, "public_parts must be a sequence of texts, got the string 'features'"),
        ({"delta": 1.0}, r"delta must be in \(0, 1\), got 1.0"),
        ({"accounts": (ACCOUNT, but(buckets=11))}, "buckets is 10 in one and 11 in the other"),
    ],
)
def test_what_cannot_be_stated_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Statement(**{"accounts": (ACCOUNT,), "delta": 1e-3, **arguments})


def test_a_statement_of_a_saved_account_is_the_same() -> None:
    saved, original = (stated(a, 1e-3) for a in (Account.from_json(ACCOUNT.to_json()), ACCOUNT))
    assert saved == original
    assert saved.markdown() == original.markdown()


def test_an_audit_is_stated_with_its_bounds_and_a_contradiction_comes_first() -> None:
    good, bad = finding(0.4), finding(1e-12)
    markdown, text, fields = forms(stated(but(findings=(good,)), 1e-3))
    assert f"- Audit: {good.text(1e-3)}" in markdown.splitlines()
    assert f"Audit: {good.text(1e-3)}." in text
    (audit,) = fields["promises"][0]["audits"]
    assert audit["verdict"] == "consistent"
    assert audit["lower_bound"]["replace"] == good.lower_bound(1e-3, "replace")
    assert audit["ceiling"]["add_remove"] == good.ceiling.epsilon(1e-3, "add_remove")
    assert (audit["canaries"], audit["confidence"], audit["p_value"]) == (100, 0.95, good.p_value)
    assert "contradicted" not in markdown
    markdown, text, fields = forms(stated(but(findings=(good, bad)), 1e-3))
    assert markdown.startswith("# Privacy statement, contradicted by an audit")
    assert "VIOLATED (p = 1e-12)" in text
    assert fields["reservations"] == ["contradicted by an audit"]
    assert [a["verdict"][:8] for a in fields["promises"][0]["audits"]] == ["consiste", "violated"]
    assert forms(stated(ACCOUNT, 1e-3))[2]["promises"][0]["audits"] == []


def test_public_parts_stand_in_every_form() -> None:
    """Where the released model has parts that no private record trained, the statement says where they come from."""
    part = "The features come from\nletters."
    statement = Statement(accounts=(ACCOUNT,), delta=1e-3, public_parts=(part,))
    assert "## Public parts\n\n- The features come from letters.\n" in statement.markdown()
    assert "Public part: The features come from letters. Not accounted:" in statement.text()
    assert statement.to_dict()["public_parts"] == ["The features come from letters."]
    assert "Public parts" not in Statement(accounts=(ACCOUNT,), delta=1e-3).markdown()
