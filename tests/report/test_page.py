"""A report as it is written: one page that needs nothing else, its summary, and its pictures.

Modules: dpmi/report/page/html.py, dpmi/report/page/markdown.py, dpmi/report/write.py.
"""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dpmi.report.write import write
from dpmi.study.results import Results

from .conftest import HOSTILE_NAME, SETTINGS, make_results, with_evaluator

FILES = {"curve.png", "tradeoff.png", "reconstructions.png", "summary.md", "report.html"}
VOID = {"meta", "link", "img", "br"}


@pytest.fixture(scope="module")
def directory(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("report") / "made" / "by-write"
    assert write(results, target) == target / "report.html"
    return target


@pytest.fixture(scope="module")
def small() -> Results:
    """Three models, for what every page has: a page of the whole study takes seconds."""
    return make_results(seeds=(0,), settings=[SETTINGS[0], SETTINGS[1], SETTINGS[4]])


@pytest.fixture(scope="module")
def page(directory: Path) -> str:
    return (directory / "report.html").read_text(encoding="utf-8")


class Structure(HTMLParser):
    """Checks that tags nest, and collects the attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Structure:
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    return structure


def test_exactly_these_files_and_no_leftovers(directory: Path):
    assert {path.name for path in directory.iterdir()} == FILES
    assert (directory / "report.html").stat().st_mode & 0o777 == 0o644


def test_a_rerun_replaces_the_files_whole(small: Results, tmp_path: Path):
    write(small, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    write(small, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


def test_a_failed_write_leaves_the_old_page(small: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "report.html"
    page.write_text("old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write(small, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert page.read_text() == "old"


def test_nothing_is_loaded_from_elsewhere(page: str):
    for tag, name, value in parsed(page).attributes:
        if name in {"src", "href", "srcset", "data", "action"}:
            assert value.startswith(("data:", "#")), (tag, name, value[:60])
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\(", page)


def test_the_pictures_in_the_page_are_the_files_beside_it(page: str, directory: Path):
    embedded = [
        base64.b64decode(value.removeprefix("data:image/png;base64,"))
        for tag, name, value in parsed(page).attributes
        if (tag, name) == ("img", "src")
    ]
    assert embedded == [
        (directory / f"{name}.png").read_bytes() for name in ("curve", "tradeoff", "reconstructions")
    ]
    texts = [value for tag, name, value in parsed(page).attributes if (tag, name) == ("img", "alt")]
    assert all(len(text) > 40 for text in texts)
    assert len(texts) == 3


def test_what_the_user_named_is_escaped(small: Results, tmp_path: Path):
    trials = small.trials.assign(label=small.trials["label"] + HOSTILE_NAME, attack=HOSTILE_NAME)
    statements = dict.fromkeys(small.statements, HOSTILE_NAME)
    hostile = replace(small, trials=trials, statements=statements, command=HOSTILE_NAME, name=HOSTILE_NAME)
    page = write(hostile, tmp_path).read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>" not in (tmp_path / "summary.md").read_text(encoding="utf-8").split("```")[0]


def test_the_statement_of_every_model_is_there(page: str, results: Results):
    text = unescape(page)
    for trial in results.trials.itertuples():
        assert results.statements[trial.trial] in text
        assert f"{trial.label}, seed {trial.seed}" in text


def test_spec_command_settings_and_versions_are_there(page: str, results: Results):
    text = unescape(page)
    assert results.spec_toml in text
    assert results.command in text
    assert "Mi-Face(iterations=500, learning_rate=0.1)" in text
    assert "Trained, attacked and measured by dpmi 1.0." in text


def test_a_folder_of_several_makers_says_so(small: Results, tmp_path: Path):
    trials = small.trials.assign(measured_by="dpmi 1.1")
    trials.loc[trials.index[0], "attacked_by"] = "dpmi 0.9"
    mixed = unescape(write(replace(small, trials=trials), tmp_path).read_text(encoding="utf-8"))
    count = len(trials) - 1
    said = (
        "Several versions of the code, or several kinds of machines, made these numbers. Trained by dpmi 1.0. "
        f"Attacked by dpmi 1.0 ({count} trials), dpmi 0.9 (1 trial). Measured by dpmi 1.1."
    )
    assert said in mixed
    assert said in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_the_bound_in_the_picture_is_explained_where_it_is(page: str, results: Results, tmp_path: Path):
    judged = unescape(write(with_evaluator(results), tmp_path).read_text(encoding="utf-8"))
    for part in ("at most 1 of 10 on average", "does not limit the attack accuracy"):
        assert part in judged
        assert part not in unescape(page)
    assert "attack accuracy and accuracy](curve.png)" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_an_interrupted_study_says_so(page: str, small: Results, tmp_path: Path):
    assert "Interrupted" not in page
    interrupted = write(replace(small, planned=40), tmp_path).read_text(encoding="utf-8")
    assert "Interrupted: 3 of 40 trials." in interrupted
    assert "**Interrupted: 3 of 40 trials.**" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_study_without_private_models_has_no_empty_tables(tmp_path: Path):
    page = write(make_results(settings=SETTINGS[:1]), tmp_path).read_text(encoding="utf-8")
    assert "Correlation of epsilon" not in page
    assert "Epsilon by every accountant" not in page
    parsed(page)


def test_no_finished_trial_is_one_clear_error(results: Results, tmp_path: Path):
    empty = replace(results, trials=results.trials.iloc[:0], per_class=results.per_class.iloc[:0])
    with pytest.raises(ValueError, match=r"no finished trial \(0 of 21\)"):
        write(empty, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_sets_do_not_share_an_axis(results: Results, tmp_path: Path):
    trials = results.trials.copy()
    trials.loc[0, "data"] = "mnist"
    with pytest.raises(ValueError, match="mixes values of data: digits, mnist"):
        write(replace(results, trials=trials), tmp_path)


def test_summary_links_its_neighbours(directory: Path):
    text = (directory / "summary.md").read_text(encoding="utf-8")
    assert "(curve.png)" in text
    assert "(reconstructions.png)" in text
    assert (
        "| subclass-dp, noise 3 | mi-face | 3 | 5.44 for one subclass (replace-one, delta = 1e-3, tight) |"
        in text
    )


def test_the_bound_and_its_notes_are_in_both(page: str, directory: Path):
    text = (directory / "summary.md").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "| 33.2 % | 71.7 % | one subclass, not a whole class |" in text
    assert "| 100 %: no bound | 100 %: no bound | – |" in text
    assert "<h2>What any attack could do</h2>" in page
    for shown in (text, unescape(page)):
        assert "kappa is an attacker's probability of success" in shown
        assert "It can be smaller than the true epsilon and is never a guarantee." in shown
