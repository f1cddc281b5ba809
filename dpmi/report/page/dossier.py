"""The dossier of one released model: a document that a data-protection officer reads and signs.

It begins with its answer: whether the model is private, for which unit at which epsilon and delta, and what an attacker
got. A model without a guarantee says so in its first words. Every number comes from an account, an audit or a table of
a study, in the formats of :mod:`dpmi.report.words`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from accountants import reconstruction_bound
from dpmi.privacy import Account, Statement
from dpmi.privacy.audit.rows import Row, rows
from dpmi.report import words
from dpmi.report.numbers import bounds, tables
from dpmi.report.numbers.promises import Promise, promises
from dpmi.report.page import answer, cells, games, strangers
from dpmi.report.page.cells import Table, without
from dpmi.report.words import ADJACENCIES
from dpmi.study.results import NO_PROMISE, UNKNOWN_PROMISE, Results

_ALL_EPSILONS = ("Top-1, at most", "AUC, at most", "Test accuracy, at most", "Gain, at most")
"""Columns of bounds by the epsilon that a study knows of its models; it knows none of a given model."""


@dataclass(frozen=True, kw_only=True)
class Dossier:
    """All that is known of one released model.

    Args:
        name: of the model.
        statement: of its accounts; None if it has none.
        results: the attacks on this model alone; None if none ran.
        audits: of training runs like its own, besides those in the accounts.
        records_per_unit: unit -> the most records that one such unit has.
        hashes: what -> SHA-256.
        trained: when its training ended; empty if no record says so.
    """

    name: str
    statement: Statement | None = None
    results: Results | None = None
    audits: Sequence[Row] = ()
    records_per_unit: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    trained: str = ""

    @property
    def accounts(self) -> Sequence[Account]:
        """The accounts of the statement, one per partition."""
        return () if self.statement is None else self.statement.accounts

    @property
    def promised(self) -> list[list[Promise]]:
        """The promises of every account; those of several partitions have no common epsilon: their own units only."""
        if self.statement is None:
            return []
        found = [promises(account, self.statement.delta, self.records_per_unit) for account in self.accounts]
        if len(found) == 1:
            return found
        return [
            [each for each in some if each.unit == account.unit]
            for some, account in zip(found, self.accounts, strict=True)
        ]

    @property
    def all_audits(self) -> list[Row]:
        """The audits of the accounts, followed by the others."""
        if self.statement is None:
            return list(self.audits)
        findings = [finding for account in self.accounts for finding in account.findings]
        own = [row for finding in findings for row in rows("this run", finding, delta=self.statement.delta)]
        return [*own, *self.audits]

    @property
    def contradicted(self) -> bool:
        """Whether an audit contradicts its ledger."""
        return any(row.verdict != "consistent" for row in self.all_audits)


def render(dossier: Dossier, pictures: Mapping[str, bytes]) -> str:
    """Return the document.

    Args:
        dossier: what is known.
        pictures: "reconstructions" -> PNG, if the attacks have pictures.
    """
    environment = Environment(
        loader=PackageLoader("dpmi.report.page", "."), autoescape=True, undefined=StrictUndefined
    )
    results = dossier.results
    return environment.get_template("dossier.html.j2").render(
        dossier=dossier,
        results=results,
        answers=[guaranteed(dossier), attacked(results)],
        facts=_facts(dossier),
        epsilons=[_epsilons(some) for some in dossier.promised],
        statement=sections(_statement(dossier)),
        audit=_audits(dossier) if dossier.all_audits else None,
        attacks=_attacks(results) if results is not None else [],
        bound=_bound(dossier),
        settings=[] if results is None else _settings(results),
        definitions=[] if results is None else words.definitions(results.trials),
        not_promised=not_promised(dossier),
        made_by=_made_by(dossier),
        hashes=_hashes(dossier),
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()},
    )


def guaranteed(dossier: Dossier) -> str:
    """The first sentence: whether there is a guarantee, and of what."""
    if dossier.statement is None:
        unknown = dossier.results is None or dossier.results.given
        return f"{UNKNOWN_PROMISE if unknown else NO_PROMISE} This is about the model {dossier.name}."
    claims, reservations = [], dossier.statement.reservations
    for account, some in zip(dossier.accounts, dossier.promised, strict=True):
        (own,) = (each for each in some if each.unit == account.unit)
        assert own.guarantee is not None
        if not own.holds or dossier.contradicted:
            return _without(dossier, own)
        found = own.guarantee
        claims.append(
            f"for one {found.unit} at epsilon {words.epsilon(found.epsilon)} and delta {words.delta(found.delta)} "
            f"({ADJACENCIES[found.adjacency]}, {found.accountant})"
        )
    condition = f", {'; '.join(reservations)}" if reservations else ""
    if len(claims) > 1:
        return (
            f"The training runs of the model {dossier.name} are private {words.listed(claims)}{condition}. These are "
            "for different partitions, and have no common epsilon."
        )
    return f"The model {dossier.name} is private {claims[0]}{condition}."


def _without(dossier: Dossier, own: Promise) -> str:
    """Why the model has no guarantee."""
    assert own.guarantee is not None
    found = own.guarantee
    if dossier.contradicted:
        why = "an audit contradicts the ledger, so do not rely on its epsilon"
    elif found.steps == 0:
        why = "the account has no steps, so it is not that of a trained model"
    elif math.isinf(found.epsilon):
        why = "epsilon is infinite"
    else:
        why = (
            "noise and draws came from a seed, and whoever knows it can remove the noise. The same training with "
            f"secret noise would have epsilon {words.epsilon(found.epsilon)} at delta {words.delta(found.delta)} for "
            f"one {found.unit} ({ADJACENCIES[found.adjacency]}, {found.accountant})"
        )
    return f"No privacy guarantee: {why}. This is about the model {dossier.name}."


def attacked(results: Results | None) -> str:
    """What an attacker got."""
    if results is None:
        return "No attack was run, so nothing is known of what an attacker gets from this model."
    summary = tables.summary(results)
    classes = int(results.per_class["class_index"].nunique())
    units = [answer.UNITS.column] if tables.has_units(results) else []
    said = [answer.headline(summary.drop(columns=units), classes, given=True)]
    if units:
        said.insert(0, answer.headline(summary, classes, given=True))
    return " ".join(said)


def _facts(dossier: Dossier) -> dict[str, str]:
    results, facts = dossier.results, {"Model": dossier.name}
    if results is not None:
        first = results.trials.iloc[0]
        facts |= {
            "Architecture": str(first["model"]),
            "Data": str(first["data"]),
            "Attacked": f"{results.per_class['class_index'].nunique()} of {len(results.class_names)} classes",
            "Test accuracy": words.percent(first["test_accuracy"])
            + (
                ", on images that were held out here; if they trained the model, this is no test"
                if results.given
                else ""
            ),
            "Attacks": words.listed(list(dict.fromkeys(results.trials["attack"]))),
        }
    for account in dossier.accounts:
        buckets = f"{account.buckets} buckets of the partition"
        facts[f"Unit of privacy: {account.unit}"] = f"{buckets}, SHA-256 {account.partition_hash[:16]}"
    return facts


def _statement(dossier: Dossier) -> str:
    if dossier.statement is not None:
        return dossier.statement.markdown()
    given = dossier.results is None or dossier.results.given
    return UNKNOWN_PROMISE if given else NO_PROMISE


def sections(markdown: str) -> list[tuple[str, list[str], list[str]]]:
    """Heading, paragraphs and items of every section of a privacy statement.

    >>> sections("# Title\\n\\n## For one class\\n\\n- epsilon\\n- delta")
    [('Title', [], []), ('For one class', [], ['epsilon', 'delta'])]
    """
    found: list[tuple[str, list[str], list[str]]] = []
    for line in filter(None, markdown.splitlines()):
        mark, _, text = line.partition(" ")
        if mark in ("#", "##"):
            found.append((text, [], []))
            continue
        if not found:
            found.append(("", [], []))
        _, paragraphs, items = found[-1]
        if mark == "-":
            items.append(text)
        else:
            paragraphs.append(line)
    return found


def _epsilons(some: Sequence[Promise]) -> Table:
    """The table of epsilon by unit."""
    first = next(each.guarantee for each in some if each.guarantee is not None)
    names = ("add_remove", "lemma3", "theorem1")
    table = [
        (
            f"one {each.unit}",
            _promised(each),
            *(words.epsilon(each.others.get(name, math.nan)) for name in names),
            each.why,
        )
        for each in some
    ]
    return Table(
        f"What the run promises by unit: epsilon at delta = {words.delta(first.delta)}, rounded up.",
        (
            "Unit",
            f"epsilon ({ADJACENCIES[first.adjacency]}, {first.accountant})",
            "add/remove-one, tight",
            "replace-one, moments accountant (Lemma 3)",
            "Theorem 1, not a guarantee",
            "Why",
        ),
        table,
        (
            "A smaller epsilon protects better. Every epsilon is for exchanging one unit; what all units have in "
            "common is not protected.",
        ),
    )


def _promised(promise: Promise) -> str:
    if promise.holds:
        assert promise.guarantee is not None
        return words.epsilon(promise.guarantee.epsilon)
    if promise.guarantee is None or math.isinf(promise.guarantee.epsilon) or promise.guarantee.is_guarantee:
        return "no promise"
    return f"no promise ({words.epsilon(promise.guarantee.epsilon)} with secret noise)"


def _audits(dossier: Dossier) -> Table:
    table = [
        (
            row.configuration,
            ADJACENCIES[row.adjacency],
            words.epsilon(row.claimed),
            words.number(row.lower_bound),
            words.number(row.ceiling),
            words.p_value(row.p_value),
            row.verdict,
        )
        for row in dossier.all_audits
    ]
    own = {
        guarantee.epsilon
        for guarantees in (() if dossier.statement is None else dossier.statement.guarantees)
        for guarantee in guarantees
    }
    others = dict.fromkeys(
        row.configuration
        for row in dossier.audits
        if not any(math.isclose(row.claimed, epsilon, rel_tol=1e-6) for epsilon in own)
    )
    notes: tuple[str, ...] = (
        "The ceiling is what a perfect training reaches on average with as many canaries: a lower bound far below "
        "epsilon means a weak test, not a strong promise. An audit finds faults; it proves no promise.",
    )
    if others:
        notes += (
            f"Of another training than this model's, or at another delta, because they claim another epsilon: "
            f"{words.listed(list(others))}.",
        )
    return Table(
        "Audits: the epsilon that the trainings have at least, with 95 % confidence each, measured with canary buckets "
        "that see every noisy sum.",
        ("Training", "Adjacency", "epsilon, claimed", "At least", "Ceiling", "p", "Verdict"),
        table,
        notes,
    )


def _attacks(results: Results) -> list[Table]:
    """The tables of a report, without the columns that are the same for all attacks on one model."""
    summary = tables.summary(results)
    kind = results.trials["distance_kind"].iloc[0]
    found = []
    if tables.has_units(results):
        found.append(without(games.unit_game(summary), "epsilon"))
    if tables.has_linkage(results):
        found.append(games.linked(summary))
    if "identified_own" in summary:
        found.append(games.identified(summary))
    found.append(cells.outcomes(summary, kind))
    if tables.has_evaluator(results):
        found.append(cells.evaluated(summary, cells.evaluator_of(results)))
    if tables.has_strangers(results):
        found.append(strangers.judged(summary))
    if not results.given:
        found.append(cells.any_attack(summary, bounds.bounds(results.trials)))
    found.append(cells.baselines(summary, kind))
    hidden = ("Model", "Seeds", "epsilon", *(_ALL_EPSILONS if results.given else ()))
    return [table if table.header[1:] == ("AUC",) else without(table, *hidden) for table in found]


def _bound(dossier: Dossier) -> Table | None:
    """What any attack could do, by an account of which no study knows."""
    if dossier.results is not None and not dossier.results.given:
        return None
    table = []
    for account, some in zip(dossier.accounts, dossier.promised, strict=True):
        own = [each for each in some if each.unit == account.unit and each.holds]
        if own and not dossier.contradicted and account.rule is None:
            try:
                found = reconstruction_bound(
                    account.ledger, bounds.PRIORS, buckets_per_unit=account.buckets_per_unit
                )
            except ValueError:  # draws that the tight accountant cannot compose
                continue
            table.append((f"one {account.unit}", *map(words.bound, found.tolist())))
    if not table:
        return None
    return Table(
        "Upper bound on the probability that any attack reconstructs one unit, rounded up.",
        ("Unit", *(f"Bound at kappa = {prior:g}" for prior in bounds.PRIORS)),
        table,
        (
            "kappa is an attacker's probability of success if that one unit was not used in training. The bound holds "
            "for any attack and any criterion of success (Hayes, Mahloujifar, Balle 2023; accountant: tight).",
        ),
    )


def _settings(results: Results) -> list[tuple[str, str]]:
    named = results.trials[["attack", "attack_settings"]].drop_duplicates()
    return [(row.attack, row.attack_settings) for row in tables.rows_of(named)]


def not_promised(dossier: Dossier) -> list[str]:
    """What nobody may conclude from the dossier, one sentence or clause each."""
    found = []
    holding = [each for some in dossier.promised for each in some if each.holds and not dossier.contradicted]
    if not holding:
        found.append("Privacy of any unit: no epsilon bounds what an attacker learns from this model.")
    else:
        missing = [f"one {each.unit}" for some in dossier.promised for each in some if not each.holds]
        if missing:
            found.append(f"Privacy of {words.listed(missing)}: see the table of epsilon by unit.")
        found.append("Secrecy of what all units have in common: the model is trained to learn it.")
    if dossier.statement is not None:
        found += [f"Not accounted: {text}." for text in dossier.statement.to_dict()["not_accounted"]]
    if dossier.results is None:
        found.append("Anything about attacks: none was run.")
    else:
        found.append(
            "Safety from attacks that did not run: a stronger attack may get more than those of this document."
        )
        if dossier.results.given and not tables.other_scorer(dossier.results.trials):
            found.append(
                "That the linkage is what the model gives away: without decoys, part of it can be elimination among "
                "its classes."
            )
    if dossier.all_audits:
        found.append("That the code has no fault: an audit finds faults, and proves no promise.")
    else:
        found.append("That the training kept what its ledger claims: no audit was run.")
    return found


def _made_by(dossier: Dossier) -> list[str]:
    """From the records of the study, never from the environment that writes the document."""
    found = [f"Its training ended on {dossier.trained}."] if dossier.trained else []
    if dossier.results is not None:
        told = words.made_by(dossier.results.trials)
        if dossier.results.given:
            found.append("No record says who trained the model. What follows is of the attacks on it.")
        return found + told
    return ["No record says who trained the model, and with which versions: an account does not hold it."]


def _hashes(dossier: Dossier) -> Table:
    found = dict(dossier.hashes)
    for account in dossier.accounts:
        found |= {
            f"partition by {account.unit}": account.partition_hash,
            f"ledger of the run on {account.unit} buckets": account.ledger.hash,
        }
    return Table("SHA-256 of what this document is about.", ("What", "SHA-256"), list(found.items()))
