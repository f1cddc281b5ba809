"""The cells of the tables of a report."""

from __future__ import annotations

import re

from dpmi.report.numbers import pairs, tables
from dpmi.report.numbers.bounds import bounds
from dpmi.report.page import cells
from dpmi.report.words import GLUE
from dpmi.study.results import Results

from ..conftest import SETTINGS, make_results


def test_cells(results: Results):
    summary = tables.summary(results)
    shown = cells.tradeoff(summary)
    assert [row[0] for row in shown.rows] == list(summary["defense"])
    assert {row[-1] for row in shown.rows} == {"yes", "no"}
    assert shown.rows[0][1] == "–"
    differences = cells.differences(pairs.differences(results, summary), None)
    verdicts = {row[0]: (row[3], row[4]) for row in differences.rows}
    change, verdict = verdicts["subclass-dp, noise 3 − none"]
    assert verdict == "larger"
    assert re.fullmatch(rf"0\.\d\d \[0\.\d\d,{GLUE}\d\.\d\d\]", change)
    one_seed = make_results(seeds=[0])
    table = pairs.differences(one_seed, tables.summary(one_seed))
    assert {row[4] for row in cells.differences(table, None).rows} == {"unknown: one seed"}


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


def table(**how: object) -> cells.Table:
    results = make_results(**how)
    return cells.any_attack(tables.summary(results), bounds(results.trials))


def test_every_model_and_attack_has_its_measured_success_beside_the_bound():
    shown = table(attacks=("mi-face", "gmi"))
    assert shown.header[2:5] == ("Measured success", "Bound at kappa = 0.01", "Bound at kappa = 0.1")
    assert len(shown.rows) == 2 * len(SETTINGS)
    by_name = {row[:2]: row[3:] for row in shown.rows}
    undefended = by_name["none", "mi-face"]
    assert undefended == (f"100{GLUE}%: no bound", f"100{GLUE}%: no bound", "–")
    # 0.3310 and 0.7166, rounded up.
    private = by_name["subclass-dp, noise 1.6", "mi-face"]
    assert private == (f"33.2{GLUE}%", f"71.7{GLUE}%", "one subclass, not a whole class")
    assert by_name["subclass-dp, noise 1.6", "gmi"] == private
    assert by_name["record-dp, noise 1", "mi-face"][-1] == "one record, not a whole class"


def test_a_bound_for_one_class_is_called_that():
    setting = ("class-dp", "class-dp, noise 1.6", 1.6, "class", 1e-2, (15.9, 7.4, 28.3, 18.5), 1.7, 0.9)
    assert table(settings=[setting]).rows[0][-1] == "one class"


def test_the_largest_bound_of_the_seeds_is_shown():
    results = make_results(settings=[SETTINGS[4]])
    found = bounds(results.trials)
    second = results.trials["trial"].iloc[1]
    shown = cells.any_attack(tables.summary(results), found | {second: (0.4, 0.8)})
    assert shown.rows[0][3:5] == (f"40.0{GLUE}%", f"80.0{GLUE}%")


def test_the_notes_say_what_the_bound_is_and_is_not():
    notes = " ".join(table(seeds=[0]).notes)
    for part in (
        "probability of success if that one unit was not used",
        "any attack and any criterion",
        "says nothing about the class",
        "the same run with secret randomness",
        "conditional on the partition",
    ):
        assert part in notes
