"""The report in a browser: on a screen, on a phone, on paper, in light and dark.

Modules: dpmi/report/page/html.py.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from unicodedata import normalize

import pytest

from dpmi.report.write import write

from .browser import Browser, chromium, needs_chromium
from .conftest import CLASS_DP, SETTINGS, make_results, with_linkage

pytestmark = needs_chromium

MOST_PAGES = 8
SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of table and picture, and few rows: axe takes seconds for a thousand cells."""
    settings = [SETTINGS[0], SETTINGS[1], SETTINGS[4], CLASS_DP[1]]
    study = with_linkage(make_results((0, 1), settings=settings), {})
    return write(study, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many models and attacks as ``dpmi curve`` has, and a statement of its own for every model."""
    settings = [*SETTINGS[:3], *SETTINGS[4:6], *CLASS_DP]
    study = with_linkage(make_results(range(10), ("wiener", "label-mean"), settings), {})
    statements = {trial: f"{text}\n" + 25 * f"- {trial}\n" for trial, text in study.statements.items()}
    return write(replace(study, statements=statements), tmp_path_factory.mktemp("large"))


def violations(browser: Browser) -> list[dict[str, object]]:
    """What axe finds wrong with the open page: contrast, labels, roles, order of headings."""
    browser.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8") + ";0")
    found: list[dict[str, object]] = json.loads(
        browser.evaluate("axe.run().then(found => JSON.stringify(found.violations))")
    )
    return [{"rule": each["id"], "nodes": each["nodes"]} for each in found]


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_no_errors_no_sideways_scroll_contrast_and_labels(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    pytest.importorskip("axe_core_python", reason="the package axe-core-python is not installed")
    browser.open(page, width=width, dark=dark)
    assert browser.errors == []
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert violations(browser) == []


def test_what_is_wrong_is_seen(browser: Browser, tmp_path: Path) -> None:
    pytest.importorskip("axe_core_python", reason="the package axe-core-python is not installed")
    wrong = tmp_path / "wrong.html"
    wrong.write_text(
        "<!doctype html><html lang=en><title>Wrong</title><main><h1>Wrong</h1><img src=missing.png>"
        "<p style='color: #ccc; background: #fff; width: 500px'>pale</p></main><script>throw Error('wrong')</script>"
    )
    browser.open(wrong, width=390)
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
    assert {"image-alt", "color-contrast"} <= {each["rule"] for each in violations(browser)}
    assert any("Error: wrong" in error for error in browser.errors)
    assert any("missing.png" in error for error in browser.errors)


def test_captions_and_names_of_rows_stay_in_view_of_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    places = browser.evaluate(
        """[...document.querySelectorAll(".scroll")].map(region => {
             region.scrollLeft = region.scrollWidth;
             const at = selector => region.querySelector(selector).getBoundingClientRect();
             const caption = at("caption > span"), row = at("tbody th");
             return [region.scrollLeft, caption.left, caption.right, row.left, row.right];
           })"""
    )
    assert any(scrolled > 100 for scrolled, *_ in places), "a table is wider than a phone"
    for _, *ends in places:
        assert all(0 <= end <= 390 for end in ends)


def test_pictures_open_at_full_size_and_close_again(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    names = browser.evaluate("[...document.querySelectorAll('.picture')].map(picture => picture.id)")
    assert names == ["curve", "tradeoff", "reconstructions"]
    for name in names:
        widths = "[image.getBoundingClientRect().width, image.naturalWidth]"
        shown = f"(() => {{ const image = document.querySelector('#{name} img'); return {widths} }})()"
        fits, whole = browser.evaluate(shown)
        assert fits < 390 < whole
        browser.evaluate(f"document.querySelector('#{name} .open').click()")
        assert browser.evaluate(shown)[0] >= whole
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        browser.evaluate(f"document.querySelector('#{name} .close').click()")
        assert browser.evaluate(shown)[0] == fits


def pages_of(browser: Browser, page: Path) -> list[str]:
    """The text of every printed page, without spaces."""
    pypdf = pytest.importorskip("pypdf", reason="the package pypdf is not installed")
    browser.open(page, width=1280)
    return [pressed(each.extract_text()) for each in pypdf.PdfReader(io.BytesIO(browser.pdf())).pages]


def pressed(text: str) -> str:
    """The text without spaces and ligatures, where a print has others than the page."""
    return "".join(normalize("NFKC", text).split())


def test_a_study_as_large_as_the_demo_prints_on_few_pages(browser: Browser, large: Path) -> None:
    printed = pages_of(browser, large)
    assert len(printed) <= MOST_PAGES
    tables = browser.evaluate(
        "[...document.querySelectorAll('table')].map(table => [table.caption, ...table.rows].map(row => row.innerText))"
    )
    assert len(tables) == 8
    for table in tables:
        (page,) = (text for text in printed if pressed(table[0]) in text)
        for row in table[1:]:
            assert pressed(row) in page, "a table is whole on one page"


@pytest.mark.slow
def test_the_demo_prints_on_few_pages(browser: Browser, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from dpmi.cli import app

    outcome = CliRunner().invoke(app, ["curve", "--out", str(tmp_path / "demo")])
    assert outcome.exit_code == 0, outcome.output
    assert len(pages_of(browser, tmp_path / "demo" / "report.html")) <= MOST_PAGES
