"""The Pareto front, and the differences of two defences over the same seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpmi.report.numbers import pairs, tables
from dpmi.study.results import Results

from ..conftest import SETTINGS


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nobody_dominates(points: list[tuple[int, int]]) -> None:
    found = pairs.on_front(*zip(*points, strict=True))
    for (x, y), on in zip(points, found, strict=True):
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
        assert on == (not beaten)


def test_differences_are_those_of_a_paired_t_test(results: Results):
    found = pairs.differences(results, tables.summary(results))
    assert set(found["reference"]) == {"none"}
    assert len(found) == len(SETTINGS) - 1
    row = found[found["label"] == "subclass-dp, noise 3"].iloc[0]
    by_label = {label: rows.sort_values("seed") for label, rows in results.trials.groupby("label")}
    for measure in pairs.measures_of(results):
        ours, theirs = (by_label[label][measure] for label in ("subclass-dp, noise 3", "none"))
        expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert row[measure] == pytest.approx(ours.mean() - theirs.mean())
        assert (row[f"{measure}_low"], row[f"{measure}_high"]) == pytest.approx(tuple(expected))


def test_defences_are_compared_with_each_other_only_at_matched_strengths(results: Results):
    matched = replace(results, matched_on="accuracy 0.95")
    found = pairs.differences(matched, tables.summary(matched))
    private = len(SETTINGS) - 1
    assert len(found) == private + private * (private - 1) // 2
    assert not found.duplicated(["label", "reference"]).any()


def test_seeds_that_only_one_of_both_has_are_left_out(results: Results):
    trials = results.trials[~((results.trials["label"] == "none") & (results.trials["seed"] == 2))]
    fewer = replace(results, trials=trials)
    found = pairs.differences(fewer, tables.summary(fewer))
    assert set(found["seeds"]) == {2}
    apart = trials[~((trials["defense"] != "none") & (trials["seed"] < 2))]
    none_shared = replace(results, trials=apart)
    assert pairs.differences(none_shared, tables.summary(none_shared))["distance"].isna().all()
