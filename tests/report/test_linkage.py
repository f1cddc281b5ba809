"""The page of a study with linkage: its tables, and the first sentence of both documents.

Modules: dpmi/report/page/games.py, dpmi/report/write.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from dpmi.report import write as writing
from dpmi.report.numbers import pairs, tables
from dpmi.report.page import answer, games
from dpmi.report.page.cells import Table
from dpmi.report.words import GLUE
from dpmi.report.write import write
from dpmi.study.results import Results

from .conftest import CLASS_DP, SETTINGS, make_results, with_evaluator, with_linkage

CLOSED = {"class-dp, noise 3": 0.2}


@pytest.fixture(scope="module")
def linked() -> Results:
    results = make_results(seeds=range(6), attacks=("a", "b"), settings=(SETTINGS[0], SETTINGS[1], *CLASS_DP))
    return with_linkage(results, CLOSED)


def column(table: Table, name: str) -> list[str]:
    return [row[table.header.index(name)] for row in table.rows]


def test_the_table_has_chance_and_bounds(linked: Results) -> None:
    table = games.linked(tables.summary(linked))
    assert set(column(table, "Chance")) == {f"16.7{GLUE}%"}
    bounds = dict(zip(column(table, "Model"), column(table, "Top-1, at most"), strict=True))
    assert bounds["class-dp, noise 3"] == f"30.0{GLUE}%"
    assert bounds["none"] == bounds["record-dp, noise 0.65"] == f"100{GLUE}%: no bound"
    assert "Top-1 by MIA distance" in table.header


def test_the_strongest_attack_has_no_bound(linked: Results) -> None:
    summary = tables.summary(linked)
    strongest = summary.assign(attack=np.where(summary["attack"] == "a", tables.STRONGEST, summary["attack"]))
    table = games.linked(strongest)
    of = dict(zip(column(table, "Attack"), column(table, "Top-1, at most"), strict=True))
    assert of[tables.STRONGEST] == "–"
    assert of["b"] != "–"


def test_the_interval_of_linkage_has_a_width_even_if_all_is_linked(linked: Results) -> None:
    row = next(tables.rows_of(tables.summary(linked)))
    assert (row.linkage_top1, row.linkage_top1_high) == (1, 1)
    # 30 games count as 15: the exact interval of 15 successes.
    assert row.linkage_top1_low == pytest.approx(0.025 ** (1 / 15))


def test_models_with_other_classes_are_paired_by_their_means(linked: Results) -> None:
    summary = tables.summary(linked)
    table = pairs.differences(linked, summary)
    (row,) = tables.rows_of(table[(table["label"] == "class-dp, noise 3") & (table["attack"] == "a")])
    mine = linked.trials[linked.trials["attack"] == "a"].set_index("seed")
    differences = (
        mine.loc[mine["label"] == "class-dp, noise 3", "linkage_top1"]
        - mine.loc[mine["label"] == "none", "linkage_top1"]
    )
    assert row.linkage_top1 == pytest.approx(differences.mean())
    assert row.seeds == 6


@pytest.fixture(scope="module")
def judged(linked: Results) -> Results:
    """The same study with an evaluator."""
    found = with_evaluator(linked)
    own = found.per_class["attack_accuracy"]
    per_class = found.per_class.assign(
        identified_own=own, identified_decoy=0.1 * own, identified_gain=0.9 * own
    )
    means = per_class.groupby("trial")[["identified_own", "identified_decoy", "identified_gain"]].mean()
    trials = found.trials.join(means, on="trial").assign(
        identified_bound=np.where(found.trials["unit"] == "class", 0.4, 1.0)
    )
    return replace(found, trials=trials, per_class=per_class)


@pytest.fixture(scope="module")
def pictured() -> dict[str, Results]:
    """What the pictures of the last written page show, by name."""
    return {}


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch, pictured: dict[str, Results]) -> None:
    """Pages are written with empty pictures, which take no time."""
    for module in (writing.curve, writing.reconstructions, writing.tradeoff):
        name = module.__name__.rpartition(".")[2]

        def draw(results: Results, summary: pd.DataFrame, name: str = name) -> Figure:
            assert set(summary["attack"]) == set(results.trials["attack"])
            pictured[name] = results
            return Figure(figsize=(1, 1))

        monkeypatch.setattr(module, "draw", draw)


@pytest.mark.usefixtures("without_pictures")
class TestWritten:
    def test_the_page_begins_with_the_answer_and_shows_each_attack_alone(
        self, judged: Results, pictured: dict[str, Results], tmp_path: Path
    ) -> None:
        page = write(judged, tmp_path).read_text(encoding="utf-8")
        summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
        question = "Could somebody who has this model tell one of its classes from others?"
        assert summary.split("\n\n")[1].startswith(f"**{question}")
        assert page.index(question) < page.index("Against ")
        assert "Against the strongest" not in summary
        assert "Interrupted" not in summary
        assert "Linkage: whether a reconstruction is nearer" in page
        assert "Identification against decoys" in page
        assert "![Epsilon against linkage, advantage, identification and accuracy](curve.png)" in summary
        assert set(pictured["curve"].trials["attack"]) == {"a", "b"}

    def test_many_rows_of_pictures_are_those_of_the_strongest_attack(
        self,
        linked: Results,
        pictured: dict[str, Results],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(writing, "MOST_ROWS", 9)  # five models, two attacks
        write(linked, tmp_path)
        assert set(pictured["reconstructions"].trials["attack"]) == {tables.STRONGEST}

    def test_the_unit_game_is_in_both_documents(self, results: Results, tmp_path: Path) -> None:
        page = write(played(results), tmp_path).read_text(encoding="utf-8")
        assert "against the unit game, MIA distance" in (tmp_path / "summary.md").read_text(encoding="utf-8")
        assert "Unit game: a random half of the units" in page


def test_identification_has_a_table_of_own_decoy_and_gain(judged: Results) -> None:
    table = games.identified(tables.summary(judged))
    assert table.header == ("Model", "Attack", "Own class", "Per decoy", "Gain", "Gain, at most")
    assert set(column(table, "Gain, at most")) == {f"40.0{GLUE}%", f"100{GLUE}%: no bound"}


def played(results: Results) -> Results:
    """The same study with the unit game."""
    subclass = results.trials["unit"] == "subclass"
    trials = results.trials.assign(unit_auc=0.7, unit_bound_auc=np.where(subclass, 0.8, 1.0))
    return replace(results, trials=trials)


def test_the_unit_game_answers_first(results: Results) -> None:
    """Seeds .69, .7, .71 undefended, and at chance under subclass-dp; the others stay where they were."""
    trials = results.trials
    near = trials["seed"].map({0: -0.01, 1: 0.0, 2: 0.01})
    private = trials["defense"] == "subclass-dp"
    trials = trials.assign(
        unit_auc=np.where(private, 0.5, 0.7) + near, unit_bound_auc=np.where(private, 0.8, 1.0)
    )
    said = answer.headline(tables.summary(replace(results, trials=trials)), 10)
    assert said.startswith(
        "Could somebody who has this model tell whether a certain unit trained it? Undefended: yes, "
    )
    assert f"70.0{GLUE}% [" in said
    assert "are told apart" in said
    private_said = said[said.index("With subclass-dp") :]
    assert f"no, 50.0{GLUE}%" in private_said
    assert f"at most 80.0{GLUE}% by its epsilon" in private_said
    assert ": yes, at every strength" in said[said.index("With record-dp") : said.index("With subclass-dp")]
    blind = replace(results, trials=trials.assign(unit_auc=0.5 + near))
    assert "even in the undefended model an attacker finds nothing clear" in answer.headline(
        tables.summary(blind), 10
    )


def test_the_unit_game_has_a_table(results: Results) -> None:
    table = games.unit_game(tables.summary(played(results)))
    assert column(table, "AUC")[0].startswith(f"70.0{GLUE}%")
    assert set(column(table, "AUC, at most")) == {f"80.0{GLUE}%", f"100{GLUE}%: no bound"}
