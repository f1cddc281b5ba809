"""The strongest attack, and what it leaves of a defence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpmi.report.figures import curve, tradeoff
from dpmi.report.numbers import strongest, tables
from dpmi.report.numbers.tables import STRONGEST
from dpmi.report.page import cells
from dpmi.report.words import GLUE
from dpmi.report.write import write
from dpmi.study.results import Results

from ..conftest import SETTINGS, drawn, make_results

NONE, MASKED, TRUE = "none", "masked", "true"
#: (label, attack, adaptation) -> attack accuracy of both classes, for seeds 0 and 1.
ACCURACIES = {
    (NONE, "a", ""): ([1.0, 0.2], [0.9, 0.4]),
    (NONE, "b", ""): ([0.5, 0.8], [0.6, 0.8]),
    (MASKED, "a", ""): ([0.1, 0.1], [0.2, 0.0]),
    (MASKED, "b", ""): ([0.0, 0.2], [0.0, 0.1]),
    (MASKED, "a", "mean forward"): ([0.9, 0.1], [0.8, 0.1]),
    (TRUE, "a", ""): ([0.1, 0.0], [0.1, 0.0]),
    (TRUE, "b", ""): ([0.0, 0.2], [0.1, 0.1]),
    (TRUE, "b", "no Tanh"): ([0.0, 0.1], [0.0, 0.1]),
}


def judged() -> Results:
    """Two defended models, two attacks, two classes."""
    base = make_results(seeds=[0], settings=SETTINGS[:1])
    trials, per_class, recons = [], [], {}
    for number, ((label, attack, adaptation), seeds) in enumerate(ACCURACIES.items()):
        for seed, accuracies in enumerate(seeds):
            trial = f"{label}-{attack}-{adaptation}-{seed}"
            trials.append(
                {
                    **base.trials.iloc[0],
                    **{"trial": trial, "defense": label, "label": label, "attack": attack, "seed": seed},
                    **{"adaptation": adaptation, "attack_accuracy": np.mean(accuracies), "fid": 5.0 + number},
                    **{"knn_distance": 100.0 - number},
                    **{
                        "attack_accuracy_worst": max(accuracies),
                        "queries": 10,
                        "test_accuracy": 0.9 + seed / 100,
                    },
                    **{"attack_accuracy_top5": 1.0, "evaluator": "scnn", "evaluator_accuracy": 0.99},
                }
            )
            for index, accuracy in enumerate(accuracies):
                row = base.per_class.iloc[index].to_dict()
                row |= {"trial": trial, "attack_accuracy": accuracy, "knn_distance": 100.0 - number}
                per_class.append(row | {"ssim": 0.5, "distance": 2.0 + number})
            recons[trial] = np.full((2, 1, 8, 8), number / 10, dtype=np.float32)
    measures = dict.fromkeys(("precision", "recall", "density", "coverage"), 0.5)
    return dataclasses.replace(
        base,
        trials=pd.DataFrame(trials).assign(**measures),
        per_class=pd.DataFrame(per_class),
        recons=recons,
        examples=base.examples[:2],
        class_names=base.class_names[:2],
        statements=dict.fromkeys(recons, "Nothing is promised."),
        planned=len(trials),
    )


def test_the_attack_that_found_most_on_each_model() -> None:
    names = {chosen.label: chosen.name for chosen in strongest.strongest(judged())}
    # 0.675 against 0.625; 0.475 against 0.1 and 0.075; 0.1 against 0.05 twice.
    assert names == {NONE: "b", MASKED: "a, mean forward", TRUE: "b"}


def test_its_trials_stand_before_those_of_attackers_who_do_not_know() -> None:
    results = judged()
    shown = strongest.with_strongest(results)
    assert len(shown.trials) == 6 + 12
    assert set(shown.trials["attack"][:6]) == {STRONGEST}
    assert (shown.trials["adaptation"] == "").all()
    for _, row in shown.trials[:6].iterrows():
        original = row["trial"].removeprefix(f"{STRONGEST}-")
        (was,) = results.trials[results.trials["trial"] == original].to_dict("records")
        for column in ("label", "seed", "attack_accuracy", "fid", "queries"):
            assert row[column] == was[column]
        assert shown.recons[row["trial"]] is results.recons[original]
        mine = shown.per_class[shown.per_class["trial"] == row["trial"]]
        assert mine["attack_accuracy"].mean() == pytest.approx(was["attack_accuracy"])
    assert shown.trials["trial"].is_unique


def test_among_equals_the_nearer_one_is_chosen() -> None:
    results = judged()
    trials, per_class = (table.assign(attack_accuracy=1.0) for table in (results.trials, results.per_class))
    # The KNN distance falls with the number of the attack.
    trials = trials.assign(knn_distance=trials["fid"].max() - trials["fid"])
    names = [
        each.name
        for each in strongest.strongest(dataclasses.replace(results, trials=trials, per_class=per_class))
    ]
    assert names == ["b", "a, mean forward", "b, no Tanh"]


def test_an_attack_that_lacks_a_seed_is_not_chosen() -> None:
    results = judged()
    without = strongest.only(results, ~results.trials["trial"].str.startswith("masked-a-mean forward-1"))
    assert {each.label: each.name for each in strongest.strongest(without)}[MASKED] == "a"


def test_without_an_evaluator_the_nearest_counts() -> None:
    results = make_results(seeds=[0], attacks=("one", "other"), settings=SETTINGS[:2])
    means = results.trials.groupby(["label", "attack"])["distance"].mean()
    for chosen in strongest.strongest(results):
        assert chosen.name == means[chosen.label].idxmin()


def test_report_leads_with_the_strongest_and_says_what_survives(tmp_path: Path) -> None:
    page = write(judged(), tmp_path).read_text(encoding="utf-8")
    markdown = (tmp_path / "summary.md").read_text(encoding="utf-8")
    verdicts = [line for line in markdown.splitlines() if line.startswith("**Against ")]
    assert verdicts[0].startswith("**Against the strongest attack on each model: ")
    assert len(verdicts) == 3
    for text in (page, markdown):
        assert "Share that survives" in text
        assert "no clear gain" not in text
        assert "mean forward" in text
        assert "on masked: a, mean forward" in page


def test_one_attack_is_its_own_strongest(results: Results) -> None:
    assert strongest.with_strongest(results) is results


def test_an_interrupted_study_lacks_as_many_trials_as_before() -> None:
    results = dataclasses.replace(judged(), planned=20)
    shown = strongest.with_strongest(results)
    assert shown.planned - len(shown.trials) == 20 - len(results.trials)
    assert (shown.trials["adaptation"] == "").all()


def test_of_many_attacks_the_strongest_is_drawn() -> None:
    results = strongest.with_strongest(make_results(seeds=[0], attacks=("a", "b"), settings=SETTINGS[:2]))
    summary = tables.summary(results)
    for column, count in (("attack", 3), (["label", "attack"], 6)):
        same, unchanged = strongest.if_few((results, summary), column, count, whole=(results, summary))
        assert same is results
        assert unchanged is summary
        fewer, rows = strongest.if_few((results, summary), column, count - 1, whole=(results, summary))
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), tables.summary(fewer))
        assert set(fewer.trials["attack"]) == {STRONGEST}
        assert set(fewer.per_class["trial"]) == set(fewer.trials["trial"])


def test_the_best_of_several_attacks_has_more_than_one_chance() -> None:
    """So neither chance nor bound is drawn where it is shown."""
    figure = drawn(curve, strongest.with_strongest(judged()))
    legends = [
        {text.get_text() for text in legend.get_texts()} for part in figure.subfigs for legend in part.legends
    ]
    assert ["chance: 1/2" in names for names in legends] == [False, True, True]


def test_with_an_evaluator_robustness_is_attack_accuracy() -> None:
    results = strongest.with_strongest(judged())
    assert [axes.get_ylabel().split("   ")[0] for axes in drawn(tradeoff, results).axes[:3]] == [
        "Attack accuracy",
        "MIA distance",
        "Advantage",
    ]
    table = cells.tradeoff(tables.summary(results))
    place = table.header.index("Attack accuracy")
    # All three are equally accurate, so that only the one which the strongest attack shows least is on the front.
    rows = [row for row in table.rows if row[2] == STRONGEST]
    assert [(row[0], row[place].split(GLUE)[0], row[-1]) for row in rows] == [
        (NONE, "67.5", "no"),
        (MASKED, "47.5", "no"),
        (TRUE, "10.0", "yes"),
    ]
