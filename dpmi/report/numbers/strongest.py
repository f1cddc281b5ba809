"""The strongest attack on each model, among all plain and adaptive attacks that ran on it.

A defence is only as good as the attack that hurts it most, and this attack differs between defences. The selection is
between whole attacks, by their mean over classes and seeds. A selection per class, as is usual for adversarial
examples, would say little here: among thirty attacks, some with a single image per class, one is right by chance for
every class.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypeAlias

import pandas as pd

from dpmi.report.numbers.tables import STRONGEST, judging
from dpmi.study.results import Results

ATTACK = ["attack", "adaptation"]
TIES = {"linkage_top1": ["linkage_auc"], "attack_accuracy": ["knn_distance"]}
"""Measure -> the measure that decides between equal attacks."""


class Chosen(NamedTuple):
    """The strongest attack on the models of one label, and the rows of its trials."""

    label: str
    name: str
    trials: pd.DataFrame


def with_strongest(results: Results) -> Results:
    """Return the trials of the strongest attack on each model, followed by the trials of all plain attacks.

    The former have a column ``strongest`` with the name of the attack. Results with a single attack per model are
    returned unchanged.
    """
    if results.trials.groupby(["label", "seed"]).size().max() == 1:
        return results
    plain = only(results, results.trials["adaptation"] == "")
    found = strongest(results)
    trials = pd.concat([_renamed(chosen) for chosen in found])
    copies = dict(zip(pd.concat([chosen.trials for chosen in found])["trial"], trials["trial"], strict=True))
    rows = results.per_class[results.per_class["trial"].isin(copies)]
    return dataclasses.replace(
        plain,
        trials=pd.concat([trials, plain.trials], ignore_index=True),
        per_class=pd.concat(
            [rows.assign(trial=rows["trial"].map(copies)), plain.per_class], ignore_index=True
        ),
        recons={**{new: results.recons[old] for old, new in copies.items()}, **plain.recons},
        statements={**{new: results.statements[old] for old, new in copies.items()}, **plain.statements},
        planned=results.planned + len(trials) + len(plain.trials) - len(results.trials),
    )


def without_strongest(results: Results) -> Results:
    """Undo :func:`with_strongest`, but for adaptive attacks: the trials of all plain attacks."""
    plain = results.trials["attack"] != STRONGEST
    return dataclasses.replace(only(results, plain), planned=results.planned - int((~plain).sum()))


def strongest(results: Results) -> list[Chosen]:
    """Select the strongest attack on the models of each label.

    With linkage, it is the attack with the highest top-1 linkage, and among equals the largest AUC. With an evaluator,
    it is the attack with the highest attack accuracy, and among equals the smallest KNN distance. Without both, it is
    the attack with the smallest MIA distance. In an interrupted study, attacks with fewer seeds than others are not
    eligible.
    """
    measure = judging(results.trials)
    order = [measure, *TIES.get(measure, ())]
    rising = [name.endswith("distance") for name in order]
    found = []
    for label, mine in results.trials.groupby("label", sort=False):
        grouped = mine.groupby(ATTACK, sort=False)
        complete = grouped.size() == grouped.size().max()
        means = grouped[order].mean()[complete].sort_values(order, ascending=rising, kind="stable")
        attack, adaptation = means.index[0]
        chosen = mine[(mine["attack"] == attack) & (mine["adaptation"] == adaptation)]
        found.append(Chosen(str(label), f"{attack}, {adaptation}" if adaptation else str(attack), chosen))
    return found


Shown: TypeAlias = tuple[Results, pd.DataFrame]
"""Results, and their table of :func:`dpmi.report.numbers.tables.summary`."""


def if_few(shown: Shown, column: str | list[str], most: int, *, whole: Shown) -> Shown:
    """Select what a figure shows: all that a page shows if it is little, else the strongest attack only.

    Args:
        shown: what the page shows.
        column: the figure draws one item per value of this column, or per combination of these columns.
        most: maximum number of items.
        whole: result of :func:`with_strongest`.
    """
    results, summary = shown
    if results.trials.groupby(column, dropna=False).ngroups <= most:
        return shown
    results, summary = whole
    return only(results, results.trials["attack"] == STRONGEST), summary[summary["attack"] == STRONGEST]


def only(results: Results, chosen: pd.Series[bool]) -> Results:
    """Results restricted to the chosen trials."""
    trials = results.trials[chosen]
    return dataclasses.replace(
        results, trials=trials, per_class=results.per_class[results.per_class["trial"].isin(trials["trial"])]
    )


def _renamed(chosen: Chosen) -> pd.DataFrame:
    """Copies of the rows, under ids of their own and with attack ``strongest``."""
    return chosen.trials.assign(
        trial=[f"{STRONGEST}-{trial}" for trial in chosen.trials["trial"]],
        attack=STRONGEST,
        adaptation="",
        attack_settings=f"on {chosen.label}: {chosen.name}",
        strongest=chosen.name,
    )
