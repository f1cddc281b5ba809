"""Paired differences between models of the same seeds, and the Pareto front."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dpmi.metrics import paired_difference
from dpmi.report.numbers.tables import has_evaluator, has_linkage, rows_of
from dpmi.study.results import Results

PER_CLASS = ("distance", "attack_accuracy")
FEWEST_DEFENSES = 2
"""Minimum number of defences for a comparison."""


def compares(summary: pd.DataFrame) -> bool:
    """Whether the study has enough defences to compare."""
    return int(summary.loc[summary["defense"] != "none", "defense"].nunique()) >= FEWEST_DEFENSES


def measures_of(results: Results) -> list[str]:
    """Measures in which the models of a study are compared."""
    return [
        *(["linkage_top1"] if has_linkage(results) else []),
        "distance",
        *(["attack_accuracy"] if has_evaluator(results) else []),
        "test_accuracy",
    ]


def differences(results: Results, summary: pd.DataFrame) -> pd.DataFrame:
    """One row per attack and comparison: each defended setting minus each undefended one, over their common seeds.

    At matched strengths, defended settings are also compared with each other. Otherwise they differ in accuracy, and
    the cause of a difference would be unclear. Columns: ``attack``, ``label``, ``reference``, ``seeds``, and
    ``<measure>``, ``<measure>_low``, ``<measure>_high`` for top-1 linkage (if the study has it), the distance, the
    attack accuracy (if the study has an evaluator) and the test accuracy; see :func:`dpmi.metrics.paired_difference`.

    Args:
        results: results of the study.
        summary: table of :func:`dpmi.report.numbers.tables.summary`.
    """
    measures = measures_of(results)
    rows = []
    for attack, settings in summary.groupby("attack", sort=False):
        undefended = list(rows_of(settings[settings["defense"] == "none"]))
        defended = list(rows_of(settings[settings["defense"] != "none"]))
        pairs = [(one, other) for other in undefended for one in defended]
        if results.matched_on is not None:
            pairs += combinations(defended, 2)
        tables = {row.label: _of_setting(results, row, measures) for row in (*undefended, *defended)}
        rows += [{"attack": attack, **_difference(tables, one, other)} for one, other in pairs]
    measured = [f"{measure}{end}" for measure in measures for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["attack", "label", "reference", "seeds", *measured])


def _difference(tables: dict[str, dict[str, pd.DataFrame]], one: Any, other: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"label": one.label, "reference": other.label}
    for measure in tables[one.label]:
        ours, theirs = tables[one.label][measure], tables[other.label][measure]
        seeds = ours.index.intersection(theirs.index)
        row["seeds"] = len(seeds)
        found = (
            paired_difference(ours.loc[seeds].to_numpy(), theirs.loc[seeds].to_numpy())
            if len(seeds)
            else (np.nan, np.nan, np.nan)
        )
        row |= zip((measure, f"{measure}_low", f"{measure}_high"), found, strict=True)
    return row


def _of_setting(results: Results, row: Any, measures: list[str]) -> dict[str, pd.DataFrame]:
    trials = results.trials[results.trials["trial"].isin(row.trials)]
    return {measure: by_seed(results, trials, measure) for measure in measures}


def by_seed(results: Results, trials: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A measure of trials with different seeds, as a table for :func:`dpmi.metrics.paired_difference`.

    It is (seeds, classes) for a measure of every class, and (seeds, 1) for one of the whole model, or if the classes of
    the models differ, as in a study with linkage.
    """
    if measure not in PER_CLASS or has_linkage(results):
        return trials.set_index("seed")[[measure]]
    per_class = results.per_class.merge(trials[["trial", "seed"]], on="trial")
    return per_class.pivot_table(index="seed", columns="class_index", values=measure, dropna=False)


def on_front(accuracy: npt.ArrayLike, protection: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mask (n,) of the points on the Pareto front: no other point is at least as good in both and better in one.

    Args:
        accuracy: (n,), larger is better.
        protection: (n,), larger is better.

    >>> on_front([0.9, 0.8, 0.8, 0.7], [1.0, 2.0, 1.5, 2.0])
    array([ True,  True, False, False])
    """
    x, y = np.asarray(accuracy, dtype=np.float64), np.asarray(protection, dtype=np.float64)
    no_worse = (x[:, None] >= x) & (y[:, None] >= y)
    better = (x[:, None] > x) | (y[:, None] > y)
    return np.asarray(~(no_worse & better).any(axis=0))
