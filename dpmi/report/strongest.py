"""The strongest attack: of every class what the best of all attacks on its model found, adapted ones included.

A defence is as good as the attack that hurts it most. Like the worst case over an ensemble of adversarial attacks
[F. Croce, M. Hein, ICML 2020], the choice is made with the measure that is reported, so it is a statement about the
defence, and no attack that somebody could run: an attacker does not know which of the attacks found most.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from dpmi.report.tables import STRONGEST, judged
from dpmi.study.results import Results

MODEL = ["label", "seed"]
_SUMS = ["queries", "grad_calls", "attack_seconds"]


def with_strongest(results: Results) -> Results:
    """The trials of attackers who do not know the defence, under the strongest of all for each model.

    A study with one attack and no other on any model is its own strongest.
    """
    if results.trials.groupby(MODEL).size().max() == 1:
        return results
    plain = only(results, results.trials["adaptation"] == "")
    best = strongest(results)
    return dataclasses.replace(
        plain,
        trials=pd.concat([best.trials, plain.trials], ignore_index=True),
        per_class=pd.concat([best.per_class, plain.per_class], ignore_index=True),
        recons={**best.recons, **plain.recons},
        statements={**best.statements, **plain.statements},
        planned=results.planned + len(best.trials) + len(plain.trials) - len(results.trials),
    )


def if_few(results: Results, column: str | list[str], most: int) -> Results:
    """What a picture shows: all, unless that is more than one can look at; then the strongest attack alone.

    Args:
        results: of :func:`with_strongest`.
        column: what is drawn once for each of its values.
        most: so many are drawn.
    """
    few = results.trials.groupby(column, dropna=False).ngroups <= most
    return results if few else only(results, results.trials["attack"] == STRONGEST)


def strongest(results: Results) -> Results:
    """One trial per model, of every class the attack with the highest attack accuracy, or the smallest distance.

    Attack accuracy is what counts where the study has an evaluator; among equals, the smaller KNN distance. What an
    evaluator says of all images of an attack together, such as FID, is NaN.
    """
    trials, per_class = [], []
    recons: dict[str, np.ndarray] = {}
    statements: dict[str, str] = {}
    order = ["attack_accuracy", "knn_distance"] if judged(results) else ["distance"]
    rising = [name != "attack_accuracy" for name in order]
    for _, mine in results.trials.groupby(MODEL, sort=False):
        first = mine.iloc[0]
        name = f"{STRONGEST}-{first['trial']}"
        found = results.per_class[results.per_class["trial"].isin(mine["trial"])]
        best = found.sort_values(["class_index", *order], ascending=[True, *rising], kind="stable")
        best = best.drop_duplicates("class_index")
        recons[name] = np.stack(
            [
                results.recons[trial][index]
                for trial, index in zip(best["trial"], best["class_index"], strict=True)
            ]
        )
        statements[name] = results.statements[first["trial"]]
        trials.append({**_of_model(results.trials, mine), **_means(best), "trial": name, "attack": STRONGEST})
        per_class.append(best.assign(trial=name))
    return dataclasses.replace(
        results,
        trials=pd.DataFrame(trials, columns=results.trials.columns),
        per_class=pd.concat(per_class, ignore_index=True),
        recons=recons,
        statements=statements,
    )


def only(results: Results, chosen: pd.Series[bool]) -> Results:
    """The chosen trials."""
    trials = results.trials[chosen]
    return dataclasses.replace(
        results, trials=trials, per_class=results.per_class[results.per_class["trial"].isin(trials["trial"])]
    )


def _of_model(trials: pd.DataFrame, mine: pd.DataFrame) -> dict[str, Any]:
    """What the table says of a model whatever the attack, what attacking it cost in all, and NaN for the rest."""
    settings = [str(row) for row in mine["attack"].unique()]
    of_attack = _differing(trials)
    row = {str(name): np.nan if name in of_attack else value for name, value in mine.iloc[0].items()}
    row |= {name: mine[name].sum() for name in _SUMS}
    return row | {"adaptation": "", "attack_settings": f"of every class, the best of {', '.join(settings)}"}


def _differing(trials: pd.DataFrame) -> set[str]:
    """Numeric columns that are not the same in all trials of every model."""
    numbers = trials.select_dtypes("number").columns.drop("seed")
    spread = trials.groupby(MODEL)[list(numbers)].nunique(dropna=False).max()
    return set(spread.index[spread > 1])


def _means(best: pd.DataFrame) -> dict[str, float]:
    means = best.drop(columns=["trial", "class_index", "class_name"]).mean().to_dict()
    if "attack_accuracy" in best:
        means["attack_accuracy_worst"] = best["attack_accuracy"].max()
    return {str(name): float(value) for name, value in means.items()}
