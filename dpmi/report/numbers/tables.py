"""The main tables of a report: a summary with one row per setting, and the rank correlations of epsilon.

A *setting* is one defence at one strength under one attack; its trials differ only in the seed. All intervals are 95 %
intervals; their ends are NaN for a single seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dpmi.metrics import confidence_interval, games_interval, student_interval, success_rate
from dpmi.metrics.intervals import UNKNOWN, Interval
from dpmi.metrics.strangers import STRANGERS
from dpmi.report import words
from dpmi.report.words import Claim
from dpmi.study.results import Results

CLAIM = list(Claim._fields)
SETTING = ["defense", "label", "strength", "strength_name", "attack", *CLAIM]
EPSILONS = ["epsilon", "epsilon_add_remove", "epsilon_lemma3", "epsilon_theorem1"]
MECHANISM = ["steps", "sampling_rate", "noise_multiplier", "max_grad_norm", "buckets"]
BASELINES = ["distance_blank", "distance_public_mean", "distance_public_nearest"]
CEILINGS = ["advantage_class_mean", "advantage_unseen"]
OVER_SEEDS = ["distance", "test_accuracy", "train_accuracy", "score", "unit_auc"]
RANGE = {"distance": (0.0, math.inf)}  # the others are shares, in [0, 1]
BY_CLASS = [
    "advantage",
    "advantage_over_nearest",
    "attack_accuracy",
    "knn_distance",
    "ssim",
    *(f"linkage_{name}{suffix}" for suffix in ("", "_mia", "_whitened") for name in ("top1", "auc")),
    *(f"identified_{name}" for name in ("own", "decoy", "gain")),
    *(
        f"{measure}_{name}"
        for name in STRANGERS
        for measure in ("attack_accuracy", "delta_face", "identified_gain")
    ),
    "strangers_disagreement",
    "type_one_errors",
]
LEVELS = [
    "linkage_chance",
    "strangers_chance",
    "linkage_bound_top1",
    "linkage_bound_auc",
    "identified_bound",
    "accuracy_bound",
    "unit_bound_auc",
]
"""Chance levels and bounds; the maximum over the seeds holds for every run."""
JUDGED = [
    "attack_accuracy_top5",
    "fid",
    "precision",
    "recall",
    "density",
    "coverage",
    *(
        f"{measure}_{name}"
        for name in STRANGERS
        for measure in ("attack_accuracy_top5", "evaluator_accuracy")
    ),
]
UNBOUNDED = {"fid", "density"}
STRONGEST = "strongest"
"""Value of column ``attack`` for the strongest attack; see :mod:`dpmi.report.numbers.strongest`."""
PERMUTATIONS = 9_999
FEWEST_EPSILONS = 3
"""Minimum number of distinct epsilons for a correlation."""


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Rows as named tuples: every column is an attribute."""
    return table.itertuples(index=False)


def claim_of(row: Any) -> Claim:
    """The claim to which the epsilon of a row of ``trials`` or of the summary belongs."""
    return Claim(*(getattr(row, field) for field in CLAIM))


def summary(results: Results) -> pd.DataFrame:
    """One row per setting: the undefended model first, then each defence with decreasing epsilon.

    Columns: the setting; ``trials``, its trial ids ordered by seed, and ``seeds``, their number; the four epsilons,
    each the maximum over the seeds, so that it holds for every run; the mechanism; the mean baselines; and
    ``<measure>``, ``<measure>_low``, ``<measure>_high`` for every measure. Distance, accuracy and score have Student
    intervals over seeds. Per-class measures have the intervals over seeds and classes of
    :func:`dpmi.metrics.confidence_interval`, top-1 linkage that of :func:`dpmi.metrics.games_interval`. ``success`` is
    :func:`dpmi.metrics.success_rate` with its interval. Chance levels and bounds are the maximum over the seeds. With
    an evaluator or strangers, their measures follow; ``attack_accuracy_worst`` is the largest per-class mean over
    seeds.
    """
    tables = {
        measure: results.per_class.pivot(index="trial", columns="class_index", values=measure)
        for measure in BY_CLASS
        if measure in results.per_class
    }
    rows = []
    for key, trials in results.trials.groupby(SETTING, dropna=False, sort=False):
        row: dict[str, object] = dict(zip(SETTING, key, strict=True))
        row["trials"] = tuple(trials.sort_values("seed")["trial"])
        row["seeds"] = len(trials)
        row |= {column: trials[column].max() for column in EPSILONS}
        row |= {column: trials[column].iloc[0] for column in MECHANISM}
        row |= {column: trials[column].mean() for column in (*BASELINES, *CEILINGS) if column in trials}
        row |= {column: trials[column].max() for column in LEVELS if column in trials}
        for measure in OVER_SEEDS:
            if measure not in trials:
                continue
            _put(row, measure, student_interval(trials[measure], RANGE.get(measure, (0.0, 1.0))))
        by_class = {measure: _known(table.loc[sorted(trials["trial"])]) for measure, table in tables.items()}
        for measure, values in by_class.items():
            interval = games_interval if measure.startswith("linkage_top1") else confidence_interval
            _put(row, measure, interval(values) if values.size else UNKNOWN)
        won = by_class["advantage"]
        _put(row, "success", success_rate(won) if won.size else UNKNOWN)
        if has_evaluator(results) and by_class["attack_accuracy"].size:
            row["attack_accuracy_worst"] = float(np.nanmean(by_class["attack_accuracy"], axis=0).max())
        for measure in JUDGED:
            if measure in trials:
                top = math.inf if measure in UNBOUNDED else 1.0
                _put(row, measure, student_interval(trials[measure], (0.0, top)))
        rows.append(row)
    return _in_reading_order(pd.DataFrame(rows))


def has_evaluator(results: Results) -> bool:
    """Whether the study has an evaluator."""
    return "attack_accuracy" in results.trials


def has_strangers(results: Results) -> bool:
    """Whether strangers judge the reconstructions of the study."""
    return "strangers_chance" in results.trials


def has_linkage(results: Results) -> bool:
    """Whether the study measures linkage."""
    return "linkage_top1" in results.trials


def other_scorer(table: pd.DataFrame) -> str:
    """Column of the second scorer of linkage; empty for a given model without decoys, which has one scorer.

    Args:
        table: the trials of a study with linkage, or a summary of them.
    """
    return next((name for name in ("linkage_top1_mia", "linkage_top1_whitened") if name in table), "")


def judging(table: pd.DataFrame) -> str:
    """The measure that judges a defence: top-1 linkage if there is any, else attack accuracy, else MIA distance.

    Args:
        table: the trials of a study, or a summary of them.
    """
    return next((name for name in ("linkage_top1", "attack_accuracy") if name in table), "distance")


def has_units(results: Results) -> bool:
    """Whether the study plays the unit game."""
    return "unit_auc" in results.trials


def has_audits(results: Results) -> bool:
    """Whether models of the study were audited."""
    return "audit_lower_bound" in results.trials


def _put(row: dict[str, object], measure: str, values: Interval) -> None:
    row[measure], row[f"{measure}_low"], row[f"{measure}_high"] = values


def _known(table: pd.DataFrame) -> np.ndarray:
    """Values (trials, classes) without empty rows and columns.

    Measures against public images are empty if the data set has none.
    """
    return table.dropna(how="all").dropna(axis="columns", how="all").to_numpy(dtype=np.float64)


def _in_reading_order(table: pd.DataFrame) -> pd.DataFrame:
    first_seen = {name: place for place, name in enumerate(table["defense"].unique())}
    order = table.assign(
        _rank=table["defense"].map(lambda name: -1 if name == "none" else first_seen[name]),
        _falling=-table["epsilon"],
    ).sort_values(["_rank", "_falling", "strength"], kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def correlations(trials: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of epsilon with the MIA distance and the attack accuracy, per attack and claim.

    Columns: ``measure``, "distance" or (with an evaluator) "attack_accuracy"; ``attack``; the claim; ``n``, the number
    of trials; ``epsilons``, the number of distinct epsilons; ``rho``; ``p`` of :func:`permutation_p_value`; ``note``,
    the reason for a missing ``rho``. A negative ``rho`` of the distance means that reconstructions are farther at
    smaller epsilon. Trials without a unit of privacy are excluded; an infinite epsilon ranks last.
    """
    guaranteed = trials[trials["unit"] != "none"]
    rows = [
        {
            "measure": measure,
            **dict(zip(["attack", *CLAIM], key, strict=True)),
            **_correlation(group, measure),
        }
        for measure in words.MEASURES
        if measure in trials
        for key, group in guaranteed.groupby(["attack", *CLAIM], dropna=False, sort=False)
    ]
    return pd.DataFrame(rows, columns=["measure", "attack", *CLAIM, "n", "epsilons", "rho", "p", "note"])


def _correlation(trials: pd.DataFrame, measure: str) -> dict[str, Any]:
    known = trials.dropna(subset=["epsilon", measure])
    distinct = known["epsilon"].nunique()
    rho, p, note = math.nan, math.nan, ""
    if distinct < FEWEST_EPSILONS:
        note = f"not computed: {distinct} distinct epsilon{'s' * (distinct != 1)}, at least 3 needed"
    elif known[measure].nunique() == 1:
        note = f"not computed: the {words.MEASURES[measure]} is the same in every trial"
    else:
        rho = float(stats.spearmanr(known["epsilon"], known[measure]).statistic)
        p = permutation_p_value(known["epsilon"].to_numpy(), known[measure].to_numpy())
    return {"n": len(known), "epsilons": distinct, "rho": rho, "p": p, "note": note}


def permutation_p_value(epsilons: np.ndarray, measured: np.ndarray) -> float:
    """Two-sided p-value of Spearman's correlation, by a permutation test.

    The usual t approximation gives p = 0 for three trials in perfect order. The permutation test gives 1/3, because two
    of the six orders are this extreme.

    >>> permutation_p_value(np.array([1.0, 2.0, 3.0]), np.array([9.0, 8.0, 7.0]))
    0.3333333333333333
    """
    ranks = stats.rankdata(measured) - (len(measured) + 1) / 2

    def covariance(shuffled: np.ndarray, axis: int) -> np.ndarray:
        return np.moveaxis(shuffled, axis, -1) @ ranks

    result = stats.permutation_test(
        (stats.rankdata(epsilons),),
        covariance,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        random_state=np.random.default_rng(0),
    )
    return float(result.pvalue)
