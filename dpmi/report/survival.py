"""What is left of a defence where the attacker knows it: how much of its gain survives, what each adaptation adds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from dpmi.metrics import paired_difference
from dpmi.report import words
from dpmi.report.cells import Table, measured
from dpmi.report.strongest import MODEL, only, strongest
from dpmi.report.tables import judged, rows_of
from dpmi.study.results import Results


def is_adaptive(results: Results) -> bool:
    """Whether any attack knew the defence."""
    return bool((results.trials["adaptation"] != "").any())


def survival(results: Results) -> pd.DataFrame:
    """One row per defended setting: what it gains against attacks that do not know it, and against all.

    The gain is what the strongest attack loses to the defence, in attack accuracy, or in distance where the study has
    no evaluator. Columns: ``label``, ``seeds``, ``adaptations`` (how many trials per model), ``gain`` and
    ``gain_adaptive`` with their ``_low`` and ``_high`` (paired over seeds), and ``survives``, the second divided by the
    first; NaN where the first is not clearly above 0, for then there is nothing to survive.
    """
    measure, sign = ("attack_accuracy", -1) if judged(results) else ("distance", 1)
    plain = only(results, results.trials["adaptation"] == "")
    tables = [_by_model(strongest(each), measure) for each in (plain, results)]
    rows = []
    undefended = results.trials.loc[results.trials["defense"] == "none", "label"].unique()
    for label, mine in results.trials[results.trials["defense"] != "none"].groupby("label", sort=False):
        for reference in undefended:
            row: dict[str, Any] = {"label": label, "reference": reference}
            row["adaptations"] = int((mine["adaptation"] != "").sum() / mine["seed"].nunique())
            for name, table in zip(("gain", "gain_adaptive"), tables, strict=True):
                seeds = table.loc[label].index.intersection(table.loc[reference].index)
                row["seeds"] = len(seeds)
                ours, theirs = (table.loc[key].loc[seeds].to_numpy() for key in (label, reference))
                gained = paired_difference(sign * ours, sign * theirs) if len(seeds) else (np.nan,) * 3
                row |= zip((name, f"{name}_low", f"{name}_high"), gained, strict=True)
            row["survives"] = row["gain_adaptive"] / row["gain"] if row["gain_low"] > 0 else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def adapted(results: Results) -> pd.DataFrame:
    """One row per setting, attack and adaptation: what knowing the defence adds to the attack.

    Columns: ``label``, ``attack``, ``adaptation``, ``seeds``, ``plain`` and ``known``, the mean attack accuracy (or
    distance) without and with it, and ``added`` with its paired interval over seeds.
    """
    measure = "attack_accuracy" if judged(results) else "distance"
    rows = []
    for (label, attack), mine in results.trials.groupby(["label", "attack"], sort=False):
        without = _by_model(
            only(results, results.trials["trial"].isin(mine[mine["adaptation"] == ""]["trial"])), measure
        )
        for adaptation, those in mine[mine["adaptation"] != ""].groupby("adaptation", sort=False):
            having = _by_model(only(results, results.trials["trial"].isin(those["trial"])), measure)
            both = having.index.intersection(without.index)
            if len(both) == 0:
                continue
            ours, theirs = having.loc[both].to_numpy(), without.loc[both].to_numpy()
            row: dict[str, Any] = {
                "label": label,
                "attack": attack,
                "adaptation": adaptation,
                "seeds": len(both),
            }
            row |= {"plain": np.nanmean(theirs), "known": np.nanmean(ours)}
            rows.append(
                row
                | dict(
                    zip(("added", "added_low", "added_high"), paired_difference(ours, theirs), strict=True)
                )
            )
    return pd.DataFrame(rows)


def survival_table(table: pd.DataFrame, *, share: bool) -> Table:
    """How much of a defence's gain is left where the attacker knows the defence.

    Args:
        table: of :func:`survival`.
        share: whether it is in attack accuracy; else in distance.
    """
    rows = [
        (
            f"{row.label} against {row.reference}",
            f"{row.seeds}",
            measured(row, "gain", share=share).replace("-", "−"),
            f"{row.adaptations}",
            measured(row, "gain_adaptive", share=share).replace("-", "−"),
            _survives(row),
        )
        for row in rows_of(table)
    ]
    return Table(
        "What a defence gains: how much "
        + ("attack accuracy the strongest attack loses" if share else "farther the strongest attack ends")
        + " to it. First against the attacks that do not know it, then against these and the adapted ones.",
        (
            "Defence",
            "Seeds",
            "Gain, attacks unaware of it",
            "Adapted attacks",
            "Gain, adapted ones included",
            "Survives",
        ),
        rows,
        (
            "Strongest: of every class what the best of all attacks found. 95 % intervals of a paired t-test over "
            "seeds. A gain that is not clearly above 0 leaves nothing to survive. The undefended model is attacked "
            "with the adaptations that serve for any model, a defended one with those of its defence besides, so that "
            "the last gain is if anything too small.",
        ),
    )


def _survives(row: Any) -> str:
    if math.isnan(row.gain_low):
        return "unknown: one seed"
    if math.isnan(row.survives):
        return "no clear gain"
    return words.percent(row.survives).replace("-", "−")


def adapted_table(table: pd.DataFrame, *, share: bool) -> Table:
    """What knowing the defence adds to each attack.

    Args:
        table: of :func:`adapted`.
        share: whether it is in attack accuracy; else in distance.
    """
    number = words.percent if share else words.number
    rows = [
        (
            row.label,
            row.attack,
            row.adaptation,
            f"{row.seeds}",
            number(row.plain),
            number(row.known),
            measured(row, "added", share=share).replace("-", "−"),
        )
        for row in rows_of(table)
    ]
    measure = "attack accuracy" if share else "MIA distance"
    return Table(
        f"Attacks that know the defence, against the same attacks unaware of it: {measure}, with the 95 % interval of "
        "a paired t-test over seeds.",
        ("Model", "Attack", "Adaptation", "Seeds", "Unaware", "Adapted", "Difference"),
        rows,
    )


def _by_model(results: Results, measure: str) -> pd.DataFrame:
    """A table of a measure (label and seed, classes)."""
    named = results.per_class.merge(results.trials[["trial", *MODEL]], on="trial")
    return named.pivot_table(index=MODEL, columns="class_index", values=measure, dropna=False)
