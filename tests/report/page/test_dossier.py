"""The sentences and tables of a dossier: the first sentence never says more than the tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from accountants import BucketMechanism, Ledger
from dpmi.privacy import Account, Provenance, Statement
from dpmi.privacy.audit.rows import Row
from dpmi.privacy.noise import NoiseMode
from dpmi.report import words
from dpmi.report.page.dossier import Dossier, attacked, guaranteed, not_promised, render
from dpmi.study.results import Results

from ..conftest import CLASS_DP, HOSTILE_NAME, SETTINGS, make_results, with_linkage

RUN = Account(
    ledger=Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200),
    unit="class",
    buckets=1000,
    provenance=Provenance.RECORD,
    partition_hash="ab" * 32,
    max_grad_norms=(3.0,),
    noise=NoiseMode.SECURE,
)
VIOLATED = Row(
    configuration="mine",
    adjacency="replace",
    claimed=1.0,
    lower_bound=9.0,
    ceiling=2.0,
    p_value=0.0,
    verdict="violated (p = 0): noise is 0, not 1",
)


def dossier(audits: tuple[Row, ...] = (), results: Results | None = None, **changed: Any) -> Dossier:
    account = dataclasses.replace(RUN, **changed)
    return Dossier(
        name="net.pt", statement=Statement(accounts=(account,), delta=1e-4), audits=audits, results=results
    )


def of_one(setting: tuple[Any, ...], shares: dict[str, float] | None = None) -> Results:
    """A model of a study with linkage, under two attacks."""
    return with_linkage(make_results((0,), ("mi-face", "wiener"), [setting]), shares or {})


@pytest.mark.parametrize(
    ("found", "private"),
    [
        (dossier(), True),
        (dossier(provenance=Provenance.FITTED), True),
        (dossier(noise=NoiseMode.SEEDED), False),
        (dossier(ledger=Ledger()), False),
        (dossier(audits=(VIOLATED,)), False),
        (Dossier(name="net.pt"), False),
        (Dossier(name="net.pt", results=of_one(SETTINGS[0])), False),
    ],
    ids=["secret", "fitted", "seeded", "no step", "violated", "no account", "undefended"],
)
def test_the_first_words_say_whether_there_is_a_guarantee(found: Dossier, private: bool) -> None:
    sentence, page = guaranteed(found), render(found, {})
    assert sentence.startswith("The model net.pt is private for one class at epsilon") is private
    assert sentence.startswith("No privacy guarantee") is not private
    assert (not_promised(found)[0].startswith("Privacy of any unit")) is not private
    assert page.index("No privacy guarantee" if not private else "is private for one class") < page.index(
        "<h2>"
    )
    if private:
        epsilon = words.epsilon(RUN.guarantee(1e-4).epsilon)
        assert f"at epsilon {epsilon} and delta 1e-4" in sentence
        assert f'<td class="short">{epsilon}</td>' in page
    else:
        assert "is private for" not in page


def test_a_seeded_table_promises_nothing() -> None:
    page = render(dossier(noise=NoiseMode.SEEDED), {})
    assert page.count("no promise (15.93 with secret noise)") == 0
    epsilon = words.epsilon(RUN.guarantee(1e-4).epsilon)
    assert page.count(f"no promise ({epsilon} with secret noise)") == 2, "a record, and a class"


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_what_an_attacker_got_is_what_the_table_has(share: float) -> None:
    results = of_one(CLASS_DP[2], {CLASS_DP[2][1]: share})
    # Among 19 decoys: the interval of five games that were all won begins at 16 %.
    results = dataclasses.replace(results, trials=results.trials.assign(linkage_chance=0.05))
    sentence = attacked(results)
    assert ("Yes, " in sentence) is (share == 1.0)
    assert ("nothing clear" in sentence) is (share == 0.1)
    best = words.percent(results.trials["linkage_top1"].max())
    assert best in sentence
    page = render(Dossier(name="net.pt", results=results), {})
    assert best in page.partition("Linkage: whether")[2]
    assert '<th scope="col">Model</th>' not in page
    assert '<th scope="col">epsilon</th>' not in page


def test_a_single_unit_game_is_stated_and_not_judged() -> None:
    results = of_one(SETTINGS[1])
    results = dataclasses.replace(results, trials=results.trials.assign(unit_auc=0.91, unit_bound_auc=1.0))
    sentence = attacked(results)
    assert "One model gives no interval, so this is not judged" in sentence
    assert "91.0" in sentence
    assert "tell one of its classes from others?" in sentence, "the attacks on classes are told, too"


def test_no_bound_of_a_study_is_shown_for_a_given_model() -> None:
    given = dataclasses.replace(of_one(SETTINGS[0]), given=True)
    page = render(dossier(results=given), {})
    assert "no bound" not in page
    assert "at most</th>" not in page
    assert "Upper bound on the probability that any attack reconstructs one unit" in page


def test_what_the_user_named_is_escaped() -> None:
    page = render(Dossier(name=HOSTILE_NAME, hashes={HOSTILE_NAME: "0" * 64}), {})
    assert HOSTILE_NAME not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
