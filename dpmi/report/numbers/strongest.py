"""The strongest attack on each model: of all that were run on it, adapted ones included, the one that found most.

A defence is as good as the attack that hurts it most, and that is another one for every defence. The choice is made
between whole attacks, by their mean over classes and seeds. To take the best of every class, as one does with
adversarial examples, would say little: of thirty attacks, some of which return one image, there is one that is right by
luck for every class of every model.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pandas as pd

from dpmi.report.numbers.tables import STRONGEST, has_evaluator
from dpmi.study.results import Results

ATTACK = ["attack", "adaptation"]


class Chosen(NamedTuple):
    """The strongest attack on the models of one label, and the rows of its trials."""

    label: str
    name: str
    trials: pd.DataFrame


def with_strongest(results: Results) -> Results:
    """The trials of attackers who do not know the defence, under those of the strongest of all on each model.

    The latter have a column ``strongest`` with its name. A study with one attack and no other on any model is its own
    strongest.
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


def strongest(results: Results) -> list[Chosen]:
    """The attack with the highest attack accuracy on the models of each label, or the smallest distance.

    Attack accuracy is what counts where the study has an evaluator; among equals, the smaller KNN distance. An attack
    that was not run with as many seeds as others, in a study that was interrupted, is not chosen.
    """
    order = ["attack_accuracy", "knn_distance"] if has_evaluator(results) else ["distance"]
    rising = [name != "attack_accuracy" for name in order]
    found = []
    for label, mine in results.trials.groupby("label", sort=False):
        grouped = mine.groupby(ATTACK, sort=False)
        complete = grouped.size() == grouped.size().max()
        means = grouped[order].mean()[complete].sort_values(order, ascending=rising, kind="stable")
        attack, adaptation = means.index[0]
        chosen = mine[(mine["attack"] == attack) & (mine["adaptation"] == adaptation)]
        found.append(Chosen(str(label), f"{attack}, {adaptation}" if adaptation else str(attack), chosen))
    return found


def if_few(
    results: Results, summary: pd.DataFrame, column: str | list[str], most: int
) -> tuple[Results, pd.DataFrame]:
    """What a picture shows: all, unless that is more than one can look at; then the strongest attack alone.

    Args:
        results: of :func:`with_strongest`.
        summary: of :func:`dpmi.report.numbers.tables.summary`.
        column: what is drawn once for each of its values.
        most: so many are drawn.
    """
    if results.trials.groupby(column, dropna=False).ngroups <= most:
        return results, summary
    return only(results, results.trials["attack"] == STRONGEST), summary[summary["attack"] == STRONGEST]


def only(results: Results, chosen: pd.Series[bool]) -> Results:
    """The chosen trials."""
    trials = results.trials[chosen]
    return dataclasses.replace(
        results, trials=trials, per_class=results.per_class[results.per_class["trial"].isin(trials["trial"])]
    )


def _renamed(chosen: Chosen) -> pd.DataFrame:
    """Rows of their own, which say what the attack is."""
    return chosen.trials.assign(
        trial=[f"{STRONGEST}-{trial}" for trial in chosen.trials["trial"]],
        attack=STRONGEST,
        adaptation="",
        attack_settings=f"on {chosen.label}: {chosen.name}",
        strongest=chosen.name,
    )
