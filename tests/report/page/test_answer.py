from __future__ import annotations

import pandas as pd

from dpmi.report.numbers import pairs, tables
from dpmi.report.page import answer
from dpmi.report.page.cells import measured
from dpmi.study.results import Results

from ..conftest import CLASS_DP, SETTINGS, make_results, with_evaluator, with_linkage


def findings(results: Results) -> list[answer.Finding]:
    summary = tables.summary(results)
    correlations = tables.correlations(results.trials)
    return answer.findings(summary, correlations, pairs.differences(results, summary), "euclidean", 10)


def text(finding: answer.Finding) -> str:
    return " ".join([finding.verdict, finding.undefended, *finding.points])


def test_a_defence_is_credited_only_where_intervals_are_apart(results: Results):
    (finding,) = findings(results)
    assert (
        finding.verdict == "Against mi-face: subclass-dp clearly raised the MIA distance; record-dp did not."
    )
    record, subclass = finding.points[:2]
    assert "none of its 3 strengths clearly raised the MIA distance" in record
    assert "epsilon 1.02 to 9.84 for one record (replace-one, delta = 1e-5, tight)" in record
    assert "subclass-dp: 3 of its 3 strengths clearly raised the MIA distance" in subclass
    assert "epsilon 15.93 for one subclass (replace-one, delta = 1e-3, tight)" in subclass


def test_what_is_claimed_has_its_paired_interval_beside_it(results: Results):
    subclass = findings(results)[0].points[1]
    table = pairs.differences(results, tables.summary(results))
    (row,) = tables.rows_of(table[table["label"] == "subclass-dp, noise 1.6"])
    assert row.distance_low > 0
    assert f"The most accurate such model is {row.label} " in subclass
    assert f"clearly higher, paired difference {measured(row, 'distance')}; advantage" in subclass


def test_a_trend_is_claimed_only_where_it_is_significant(results: Results):
    record, subclass = findings(results)[0].points[2:]
    assert record.startswith(
        "Epsilon for one record (replace-one, delta = 1e-5, tight) shows no clear correlation"
    )
    assert subclass.startswith("A smaller epsilon for one subclass")
    assert "9 trials" in subclass


def test_an_evaluator_adds_the_trend_of_attack_accuracy(results: Results):
    (finding,) = findings(with_evaluator(results))
    trend = finding.points[-1]
    assert trend.startswith("A larger epsilon for one subclass")
    assert "correlates with a larger attack accuracy (Spearman 0." in trend


def test_one_seed_claims_no_difference():
    (finding,) = findings(make_results(seeds=[0]))
    assert finding.verdict == "Against mi-face: too few seeds for a verdict on record-dp and subclass-dp."
    assert "clearly raised" not in text(finding)
    assert "clearly higher" not in text(finding)
    assert "One seed gives no interval" in finding.undefended


def test_three_trials_in_perfect_order_are_no_trend():
    (finding,) = findings(make_results(seeds=[0], settings=(SETTINGS[0], *SETTINGS[4:])))
    assert "shows no clear correlation" in finding.points[-1]


def test_an_attack_that_gains_nothing_is_called_out(results: Results):
    useless = results.per_class.assign(advantage=results.per_class["advantage"] - 0.5)
    (finding,) = findings(Results(**(vars(results) | {"per_class": useless})))
    assert "not clearly above 0" in finding.undefended


def test_without_an_undefended_model_nothing_is_judged():
    (finding,) = findings(make_results(settings=SETTINGS[1:]))
    assert finding.verdict == "No undefended model was attacked with mi-face, so the study judges no defence."


def test_each_attack_is_answered_for_itself():
    both = findings(make_results(attacks=("mi-face", "gmi")))
    assert [finding.verdict.split(":")[0] for finding in both] == ["Against mi-face", "Against gmi"]


LINKED = (SETTINGS[0], *SETTINGS[1:4], *CLASS_DP)
SEEDS = range(10)
CLOSED = {"class-dp, noise 1.6": 0.1, "class-dp, noise 3": 0.2}


def headline(results: Results, classes: int = 5) -> str:
    return answer.headline(tables.summary(results), classes).replace("\N{NO-BREAK SPACE}", " ")


def test_the_first_sentence_answers_the_question_of_linkage():
    said = headline(with_linkage(make_results(seeds=SEEDS, settings=LINKED), CLOSED))
    question, undefended, record, of_class = said.replace("? ", "?|").replace(". With", ".|With").split("|")
    assert question == "Could somebody who has this model tell one of its classes from others?"
    assert undefended == (
        "Undefended: yes, mi-face picks the right class in 100.0 % [86.3, 100.0] of the cases, guessing in 16.7 %."
    )
    assert record.startswith(
        "With record-dp, noise 0.65 (epsilon 9.84 for one record): yes, at every strength, 100.0 %"
    )
    assert "at most" not in record, "the epsilon of a record bounds no linkage"
    # The most accurate of the two that leave nothing.
    assert of_class.startswith("With class-dp, noise 1.6 (epsilon 13 for one class): no, 10.0 % [")
    assert "at most 46.0 % by its epsilon" in of_class
    assert "at test accuracy 90.9 %" in of_class


def test_an_interval_too_wide_for_a_no_is_unclear():
    few = with_linkage(make_results(seeds=(0, 1), settings=LINKED), {"class-dp, noise 3": 0.3})
    assert "With class-dp, noise 3 (epsilon 5 for one class): unclear, " in headline(few)


def test_a_study_whose_attacks_find_nothing_shows_no_protection():
    blind = with_linkage(
        make_results(seeds=SEEDS, settings=LINKED), dict.fromkeys((s[1] for s in LINKED), 0.2)
    )
    said = headline(blind)
    assert said.startswith(
        "This study cannot show protection: even in the undefended model its attacks find nothing"
    )
    assert "With" not in said
    (finding,) = findings(blind)
    assert finding.verdict == "Against mi-face: nothing follows about a defence."
    assert "The top-1 linkage is not clearly above 16.7" in finding.undefended
    assert finding.points == []


def test_without_linkage_the_first_sentence_judges_by_the_advantage(results: Results):
    said = headline(results, 10)
    assert said.startswith(
        "Could somebody who has this model reconstruct what its classes look like? Undefended: yes,"
    )
    assert "advantage of mi-face 0.3" in said
    useless = results.per_class.assign(advantage=results.per_class["advantage"] - 0.5)
    blind = Results(**(vars(results) | {"per_class": useless}))
    assert headline(blind, 10).startswith("This study cannot show protection")
    assert findings(blind)[0].points == []


def test_with_an_evaluator_the_first_sentence_judges_by_the_attack_accuracy(results: Results):
    said = headline(with_evaluator(results), 10)
    assert "the evaluator recognises 100.0 %" in said
    assert "of the reconstructions of mi-face, 10.0 % by guessing" in said
    assert "With subclass-dp, noise 1.6 (epsilon 15.93 for one subclass): fewer, " in said
    assert "With record-dp, noise" in said


def test_without_an_undefended_model_the_first_sentence_says_so():
    assert headline(make_results(settings=SETTINGS[1:])).startswith("No undefended model was attacked")


def test_linkage_judges_before_the_evaluator_and_the_distance():
    linked = with_linkage(make_results(seeds=SEEDS, settings=LINKED), CLOSED)
    (finding,) = findings(linked)
    assert (
        finding.verdict == "Against mi-face: class-dp clearly lowered the top-1 linkage; record-dp did not."
    )
    assert "paired difference −90.0" in " ".join(finding.points).replace("\N{NO-BREAK SPACE}", " ")


def test_difference_needs_a_gap():
    def row(low: float, high: float) -> object:
        frame = pd.DataFrame({"distance_low": [low], "distance_high": [high]})
        return next(tables.rows_of(frame))

    assert answer.difference(row(2, 3), row(0, 1), "distance") == 1
    assert answer.difference(row(0, 1), row(2, 3), "distance") == -1
    assert answer.difference(row(0, 2), row(2, 3), "distance") == 0
    assert answer.difference(row(float("nan"), 1), row(2, 3), "distance") is None
