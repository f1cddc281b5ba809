"""The site that `make docs` builds: without warnings, without a broken link, and without another host."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

from accountants import BucketMechanism
from dpmi import attacks, data, defenses, study
from dpmi.cli.listing import described
from dpmi.privacy import Partition

from .pages import messages
from .repository import ROOT

SearchEnglish = pytest.importorskip(
    "sphinx.search.en", reason="the extra `docs` is not installed"
).SearchEnglish
for each in ("furo", "myst_parser"):
    pytest.importorskip(each, reason="the extra `docs` is not installed")

PUBLIC = re.findall(
    r"`([\w.]+)`",
    "".join(
        re.findall(
            r"^\| (`.*?) \|", ROOT.joinpath("docs", "public_api.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    ),
)
REPOSITORY = "https://github.com/dpmi/dpmi/"
PLUGINS = [
    pytest.param(folder, kind, name, plugin, id=name)
    for folder, kind, package in (("attacks", "attacks", attacks), ("defenses", "defences", defenses))
    for name, plugin in package.REGISTRY.all().items()
    if isinstance(plugin, type) and plugin.__module__.startswith("dpmi.")
]


class Page(HTMLParser):
    """What a page has: its text, its anchors, where it leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.ids, self.links, self.loads = "", set[str](), list[str](), list[str]()
        self.tags, self.unnamed = set[str](), list[str]()
        self._open: tuple[str, int] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "a" and "reference" in (dict(attrs).get("class") or "").split():
            self._open = (dict(attrs).get("href") or "", len(self.text))
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name == "href" and tag == "a" and value:
                self.links.append(value)
            elif name in ("src", "srcset", "href", "data", "poster") and value:
                self.loads.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._open is not None:
            if not self.text[self._open[1] :].strip():
                self.unnamed.append(self._open[0])
            self._open = None

    def handle_data(self, data: str) -> None:
        self.text += data


def commands() -> list[list[str]]:
    """The commands of `make docs`, for this Python."""
    makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^docs: .*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    programs = {"python": [], "sphinx-build": ["-m", "sphinx"]}
    found = []
    for line in recipe.splitlines():
        program, *arguments = line.strip().removeprefix("$(BIN)/").split()
        found.append([sys.executable, *programs[program], *arguments])
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in commands():
        placed = [part.replace("build/docs", str(folder)) for part in command]
        done = subprocess.run(placed, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stdout + done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_repository_is_there(site: Path, pages: dict[Path, Page]) -> None:
    for source in ROOT.joinpath("docs").rglob("*.md"):
        if source.parent.name == "performance":
            continue  # parts of performance.md
        inside = source.relative_to(ROOT / "docs")
        name = inside.with_name("index.md") if inside.name == "README.md" else inside
        assert site / name.with_suffix(".html") in pages
    assert {site / "changelog.html", site / "readme.html"} <= set(pages)


def test_every_notebook_is_a_page_with_what_it_printed_and_drew(site: Path, pages: dict[Path, Page]) -> None:
    sources = sorted(ROOT.glob("notebooks/*.ipynb"))
    assert len(sources) >= 8
    for source in sources:
        page = pages[site / "notebooks" / f"{source.stem}.html"]
        shown = re.sub(r"\s+", "", page.text)
        drawn = 0
        for cell in json.loads(source.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                drawn += "image/png" in data
                if not {"image/png", "text/html"} & data.keys():
                    text = "".join(output.get("text", data.get("text/plain", "")))
                    assert re.sub(r"\s+", "", text) in shown
                elif "text/html" in data:
                    text = "".join(data["text/html"])
                    for value in re.findall(r"<t[dh]>(.*?)</t[dh]>", text):
                        assert re.sub(r"\s+", "", html.unescape(value)) in shown
        pictures = [each for each in page.loads if each.endswith(".png")]
        assert drawn == len(pictures)
        assert all((site / "notebooks" / each).resolve().is_file() for each in pictures)


def test_every_link_leads_to_a_page_and_an_anchor(site: Path, pages: dict[Path, Page]) -> None:
    wrong, seen = [], 0
    for path, page in pages.items():
        for link in page.links:
            if link.startswith(REPOSITORY):
                file = link.removeprefix(REPOSITORY).split("#")[0].removeprefix("blob/main/")
                if not ROOT.joinpath(file.removeprefix("tree/main/")).exists():
                    wrong.append((path.relative_to(site).as_posix(), link))
                continue
            if "://" in link or link.startswith("mailto:"):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / unquote(name)).resolve() if name else path
            seen += 1
            if not target.exists() or (
                anchor and target in pages and unquote(anchor) not in pages[target].ids
            ):
                wrong.append((path.relative_to(site).as_posix(), link))
    assert wrong == []
    assert seen > 5000


def test_every_link_has_a_text(pages: dict[Path, Page]) -> None:
    assert {path.name: page.unnamed for path, page in pages.items() if page.unnamed} == {}


def test_no_page_loads_anything_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    loads = {load for page in pages.values() for load in page.loads}
    assert [load for load in loads if re.match(r"(\w+:)?//", load)] == []
    assert len(loads) > 100
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"(?:@import\s+[\"']|url\(\s*[\"']?)(?:\w+:)?//[^)\"']*", text) == [], style
    for path, page in pages.items():
        missing = [
            load for load in page.loads if not (path.parent / load.split("?")[0].split("#")[0]).exists()
        ]
        assert missing == [], path


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_an_entry(module: str, site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "api" / f"{module}.html"]
    names = {f"{module}.{name}" for name in import_module(module).__all__}
    assert names - page.ids == set()


@pytest.mark.parametrize(("folder", "kind", "name", "plugin"), PLUGINS)
def test_every_plugin_has_a_page_with_its_settings(
    folder: str, kind: str, name: str, plugin: type, site: Path, pages: dict[Path, Page]
) -> None:
    text = "".join(pages[site / folder / f"{name}.html"].text.split())
    found = described(kind, name, plugin)
    for field in found["fields"]:
        default = "required" if field["default"] is None else field["default"]
        assert "".join(field["name"].split()) in text
        assert "".join(default.split()) in text
        plain = re.split(r"[`:*\\\[<]", field["meaning"])[0]  # until the first markup
        assert "".join(plain.split()) in text
    assert f'name="{name}"' in text


def test_formulas_need_no_script(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "theory" / "guarantee.html"]
    assert "math" in page.tags
    assert not [load for load in page.loads if re.search("mathjax|katex", load, re.IGNORECASE)]
    assert "$" not in page.text


def test_papers_are_links(site: Path, pages: dict[Path, Page]) -> None:
    assert "../references.html#lrk25" in pages[site / "theory" / "guarantee.html"].links
    assert "../references.html#wzj21" in pages[site / "defenses" / "mid.html"].links


class Search:
    """What Sphinx's script does with a query: the pages that have every word, in the form or as the part of another."""

    def __init__(self, site: Path) -> None:
        text = site.joinpath("searchindex.js").read_text(encoding="utf-8")
        index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
        self.names = index["docnames"]
        self._language = SearchEnglish({})
        self._pages: dict[str, set[int]] = {}
        for part in ("terms", "titleterms"):
            for word, pages in index[part].items():
                self._pages.setdefault(word, set()).update([pages] if isinstance(pages, int) else pages)

    def __call__(self, query: str) -> set[str]:
        found = set(range(len(self.names)))
        for word in re.findall(r"\w+", query.lower()):
            stem = self._language.stem(word)
            if word in self._language.stopwords or word.isdigit() or len(stem) < 3:
                continue
            words = [stem] if stem in self._pages else [each for each in self._pages if stem in each]
            found &= set().union(*(self._pages[each] for each in words))
        return {self.names[page] for page in found}


@pytest.fixture(scope="module")
def search(site: Path) -> Search:
    return Search(site)


def test_the_search_knows_the_pages(search: Search) -> None:
    assert {"pitfalls", "theory/guarantee", "attacks/miface", "api/dpmi.privacy"} <= set(search.names)
    assert "pitfalls" in search("BatchNorm")
    assert search("a word that no page of ours holds: quizzaciously") == set()


def test_the_search_finds_the_first_words_of_every_message(search: Search) -> None:
    texts = [text for files in messages.messages().values() for each in files.values() for text in each]
    queries = {" ".join(text.replace(messages.VALUE, " ").split()[:6]) for text in texts}
    assert [query for query in queries if not search(query)] == []
    assert len(queries) > 600


@pytest.mark.parametrize(
    ("wrong", "page"),
    [
        (lambda: BucketMechanism(sampling_rate=2.0, noise_multiplier=1.0), "messages/accountants"),
        (lambda: data.load("mnits"), "messages/dpmi.data"),
        (lambda: attacks.Gmi(images_per_class=0), "messages/dpmi.attacks"),
        (lambda: defenses.LabelSmoothing(alpha=2.0), "messages/dpmi.defenses"),
        (lambda: Partition.by_column(["a", None], unit="user"), "messages/dpmi.privacy"),
        (lambda: study.parse(""), "messages/dpmi.study"),
    ],
)
def test_the_search_finds_what_a_reader_has_seen(
    wrong: Callable[[], object], page: str, search: Search
) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        wrong()
    assert page in search(" ".join(str(error.value).split()[:3])), error.value
