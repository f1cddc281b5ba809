from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpmi.metrics import confidence_interval
from dpmi.report import words
from dpmi.report.numbers import tables
from dpmi.report.page import cells
from dpmi.study.results import Results

from .conftest import SETTINGS, make_results, with_evaluator


def test_summary_has_a_row_per_setting_with_its_own_trials(results: Results):
    table = tables.summary(results)
    assert list(table["label"]) == [
        "none",
        "record-dp, noise 0.65",
        "record-dp, noise 1",
        "record-dp, noise 1.8",
        "subclass-dp, noise 1.6",
        "subclass-dp, noise 3",
        "subclass-dp, noise 3.65",
    ]
    row = table[table["label"] == "subclass-dp, noise 3"].iloc[0]
    mine = results.trials[results.trials["label"] == "subclass-dp, noise 3"]
    assert row["trials"] == tuple(mine["trial"])
    assert row["seeds"] == 3
    values = mine["distance"].to_numpy()
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3)
    assert row["distance"] == pytest.approx(values.mean())
    assert row["distance_low"] == pytest.approx(values.mean() - half)
    assert row["distance_high"] == pytest.approx(values.mean() + half)
    assert row["epsilon"] == 5.440


def test_the_advantage_interval_is_over_seeds_and_classes(results: Results):
    row = tables.summary(results).iloc[4]
    per_class = results.per_class[results.per_class["trial"].isin(row["trials"])]
    values = np.stack([group["advantage"].to_numpy() for _, group in per_class.groupby("trial", sort=False)])
    assert values.shape == (3, 10)
    expected = confidence_interval(values)
    assert (row["advantage"], row["advantage_low"], row["advantage_high"]) == pytest.approx(tuple(expected))


def test_measured_success_is_the_share_of_classes_above_zero(results: Results):
    row = tables.summary(results).iloc[1]
    # Two seeds win classes 0 and 1, the third class 0 alone: 5 of 30; class 9 gains exactly nothing.
    won = {(seed, index) for seed in (0, 1, 2) for index in (0, 1)} - {(2, 1)}
    places = {trial: seed for seed, trial in enumerate(row["trials"])}
    per_class = results.per_class.copy()
    mine = per_class["trial"].isin(row["trials"])
    per_class.loc[mine, "advantage"] = [
        0.3 if (places[r.trial], r.class_index) in won else 0.0 if r.class_index == 9 else -0.2
        for r in tables.rows_of(per_class[mine])
    ]
    found = tables.summary(Results(**(vars(results) | {"per_class": per_class}))).iloc[1]
    assert found["success"] == pytest.approx(5 / 30)
    # Between those of 1 and of 2 out of 10 classes: three seeds are not thirty classes.
    one, two = (stats.binomtest(k, 10).proportion_ci(method="exact") for k in (1, 2))
    assert one.low < found["success_low"] < two.low
    assert one.high < found["success_high"] < two.high


def test_unknown_advantages_are_no_success_and_no_failure(results: Results):
    unknown = Results(**(vars(results) | {"per_class": results.per_class.assign(advantage=math.nan)}))
    assert tables.summary(unknown)[["success", "success_low", "success_high"]].isna().all(axis=None)


def test_no_public_data_leaves_the_oracle_advantage_empty(results: Results):
    blind = Results(
        **(vars(results) | {"per_class": results.per_class.assign(advantage_over_nearest=math.nan)})
    )
    assert tables.summary(blind)["advantage_over_nearest"].isna().all()


def test_the_largest_epsilon_of_the_seeds_is_reported(results: Results):
    trials = results.trials.copy()
    first = trials.index[trials["label"] == "record-dp, noise 1"][0]
    trials.loc[first, "epsilon"] = 3.5
    table = tables.summary(Results(**(vars(results) | {"trials": trials})))
    assert table.loc[table["label"] == "record-dp, noise 1", "epsilon"].item() == 3.5


def test_different_deltas_are_never_averaged(results: Results):
    trials = results.trials.copy()
    first = trials.index[trials["label"] == "record-dp, noise 1"][0]
    trials.loc[first, "delta"] = 1e-6
    table = tables.summary(Results(**(vars(results) | {"trials": trials})))
    assert sorted(table.loc[table["label"] == "record-dp, noise 1", "seeds"]) == [1, 2]


def test_correlations_are_spearman_per_unit(results: Results):
    table = tables.correlations(results.trials).set_index("unit")
    assert set(table.index) == {"record", "subclass"}
    for unit in table.index:
        mine = results.trials[results.trials["unit"] == unit]
        assert table.loc[unit, "rho"] == pytest.approx(
            stats.spearmanr(mine["epsilon"], mine["distance"]).statistic
        )
        assert table.loc[unit, "n"] == 9
        assert table.loc[unit, "epsilons"] == 3


def test_an_evaluator_adds_the_correlation_with_attack_accuracy(results: Results):
    judged = with_evaluator(results)
    table = tables.correlations(judged.trials)
    assert list(table["measure"]) == ["distance"] * 2 + ["attack_accuracy"] * 2
    row = next(tables.rows_of(table[(table["unit"] == "subclass") & (table["measure"] == "attack_accuracy")]))
    mine = judged.trials[judged.trials["unit"] == "subclass"]
    assert row.rho == pytest.approx(stats.spearmanr(mine["epsilon"], mine["attack_accuracy"]).statistic)
    assert [shown[0] for shown in cells.correlations(table).rows] == [
        "MIA distance",
        "MIA distance",
        "attack accuracy",
        "attack accuracy",
    ]


def known(epsilons: list[float], distances: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epsilon": epsilons,
            "distance": distances,
            "attack": "mi-face",
            "unit": "class",
            "adjacency": "replace",
            "delta": 1e-2,
            "accountant": "tight",
        }
    )


def test_correlation_of_known_data():
    row = tables.correlations(known([1, 2, 4, 8, math.inf, math.nan], [5, 4, 3, 2, 1, 0])).iloc[0]
    assert row["rho"] == pytest.approx(-1.0)
    assert row["n"] == 5
    # All 120 orders are tried, and two of them are as extreme.
    assert row["p"] == pytest.approx(2 / 120)


@pytest.mark.parametrize(
    ("epsilons", "distances", "reason"),
    [
        ([1, 1, 2, 2], [1, 2, 3, 4], "2 distinct epsilons, at least 3 needed"),
        ([1, 1], [1, 2], "1 distinct epsilon, at least 3 needed"),
        ([1, 2, 3], [math.nan] * 3, "0 distinct epsilons, at least 3 needed"),
        ([1, 2, 3], [7, 7, 7], "the MIA distance is the same in every trial"),
    ],
)
def test_a_correlation_that_cannot_be_had_says_why(
    epsilons: list[float], distances: list[float], reason: str
):
    row = tables.correlations(known(epsilons, distances)).iloc[0]
    assert math.isnan(row["rho"])
    assert row["note"] == f"not computed: {reason}"
    assert cells.correlations(tables.correlations(known(epsilons, distances))).rows[0][3] == row["note"]


def test_without_private_models_there_is_nothing_to_correlate():
    alone = make_results(settings=SETTINGS[:1])
    assert tables.correlations(alone.trials).empty
    assert cells.accounts(tables.summary(alone)).rows == []


def test_every_epsilon_stands_with_its_meaning(results: Results):
    summary = tables.summary(results)
    for row in cells.outcomes(summary, "euclidean").rows[4:]:
        assert "for one subclass (replace-one, delta = 1e-3, tight)" in row[3]
    for row in cells.accounts(summary).rows[3:]:
        assert "for one subclass (replace-one, delta = 1e-3, tight)" in row[1]
    header = cells.accounts(summary).header
    assert "Theorem 1, not a guarantee" in header


def test_one_seed_is_said_to_have_no_interval():
    single = make_results(seeds=[5])
    for row in cells.outcomes(tables.summary(single), "euclidean").rows:
        assert row[2] == "1 (no interval)"
        assert "[" not in row[5]


@pytest.mark.parametrize("value", [15.924, 5.440, 0.031, 112.53, 7.0, 1.0001, 999.96])
def test_a_printed_epsilon_is_never_below_the_true_one(value: float):
    assert value <= float(words.epsilon(value)) <= value * 1.001
