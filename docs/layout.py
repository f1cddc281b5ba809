"""Lay out the pages of the site in one folder: ``python docs/layout.py FOLDER``; ``make docs`` builds them.

The pages are Markdown that a code host shows as it is. Here, links to files without a page get the repository's
address, and the pages of plug-ins and of the API are written from the code, so that nothing is said twice.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import messages
import notebook_pages
import tomllib
from sphinx.pycode import ModuleAnalyzer

from dpmi import attacks, defenses
from dpmi.cli.listing import described

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Homepage"]

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))

#: The sidebar; a page without a text of its own gets its title.
NAVIGATION = {
    "Start": {
        "start/install": "Install",
        "start/private_model": "First private model",
        "start/attack": "First attack",
        "start/audit": "First audit",
        "start/first_hour": "First hour",
        "readme": "All on one page",
    },
    "Guides": {
        "engine": "Training with the engine",
        "units": "Units and partitions",
        "epsilon": "Epsilon for classes",
        "features": "Useful private models",
        "attack_a_model": "Attack your classifier",
        "audit": "Audit",
        "dossier": "A dossier to sign",
        "studies": "Studies",
        "distributed": "Many machines",
        "sharded": "FSDP2",
        "gpus": "GPUs",
        "from_opacus": "From Opacus",
        "loops": "Loops",
        "data": "Data sets",
        "plugins": "Plug-ins",
        "write_a_defense": "A defence of your own",
    },
    "Guarantees": {
        "pitfalls": "Pitfalls",
        "theory/index": "Theory",
    },
    "Reference": {
        "attacks": "Attacks",
        "defenses": "Defences",
        "public_api": "API",
        "messages/index": "Error messages",
        "tables": "Tables of a study",
        "performance": "Speed and memory",
    },
    "Notebooks": {
        path.relative_to(ROOT).with_suffix("").as_posix(): f"{path.stem[:2]} {title}"
        for path, title in ((path, notebook_pages.title(path)) for path in NOTEBOOKS)
    },
    "Results": {"results/index": "Results"},
    "Project": {
        "decisions/index": "Decisions",
        "changelog": "Changelog",
        "references": "References",
        "platforms": "Platforms",
        "contributing": "Contributing",
        "security": "Security",
    },
}

#: Pages whose sidebar entry opens to others.
CHILDREN = {
    "theory/index": ["theory/guarantee", "theory/reconstruction", "theory/linkage"],
    "attacks": ["attacks/*"],
    "defenses": ["defenses/*"],
    "public_api": ["api/*"],
    "messages/index": ["messages/*"],
    "results/index": ["results/*", "results/*/summary"],
    "decisions/index": ["decisions/*"],
}

CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
#: A link that shows a file's name, for which the site shows the title of the page.
NAMED_BY_FILE = re.compile(r"\[(?:([\w/]+\.md)|([\w/]+/))\]\((?=(?:\.\./)*(?:\1|\2README\.md)[#)])")


def lay_out(folder: Path) -> None:
    """Write every page, and the pictures that they show, into ``folder``; nothing else stays there."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = {source: page_of(source) for source in sources()}
    for source, page in pages.items():
        text = page_text(source, pages)
        for picture, content in pictures(source).items():
            copy = folder / page_of(picture)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        write(folder / page, text + sidebar(page))
    for path, text in generated():
        write(folder / path, text)


def sources() -> list[Path]:
    """Return the files that are pages; what lies beside performance.md are parts of it."""
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [
        *top,
        *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "performance"),
        *NOTEBOOKS,
    ]


def page_of(source: Path) -> Path:
    """Return the place on the site: that below ``docs/``, where a README is the index of its folder.

    >>> page_of(ROOT / "docs" / "results" / "README.md").as_posix(), page_of(ROOT / "CHANGELOG.md").as_posix()
    ('results/index.md', 'changelog.md')
    >>> page_of(ROOT / "notebooks" / "04_why_low_rank.ipynb").as_posix()
    'notebooks/04_why_low_rank.md'
    """
    path = source.relative_to(ROOT)
    if path.parts[0] == "notebooks":
        return path.with_suffix(".md") if path.suffix == ".ipynb" else path
    if path.parts[0] != "docs":
        return Path(path.name.lower())
    inside = path.relative_to("docs")
    return inside.with_name("index.md") if inside.name == "README.md" else inside


def page_text(source: Path, pages: Mapping[Path, Path]) -> str:
    """Return the text of a page with the links of the site."""
    text = markdown(source)

    def place(match: re.Match[str]) -> str:
        target, hash_, anchor = match.group(1).partition("#")
        if "://" in target or not target:
            return match.group(0)
        path = (source.parent / target).resolve()
        if path.suffix in (".png", ".webp"):
            return match.group(0)
        if path not in pages:
            kind = "tree" if path.is_dir() else "blob"
            return f"]({REPOSITORY}/{kind}/main/{path.relative_to(ROOT).as_posix()}{hash_}{anchor})"
        return f"]({os.path.relpath(pages[path], pages[source].parent)}{hash_}{anchor})"

    def shown(match: re.Match[str]) -> str:
        name = os.path.relpath(page_of((source.parent / match.group(2)).resolve()), pages[source].parent)
        return f"![{match.group(1)}]({name})"

    def outside_code(part: str) -> str:
        return cited(LINK.sub(place, PICTURE.sub(shown, part)), pages[source])

    text = NAMED_BY_FILE.sub("[](", text)
    parts = CODE.split(text)
    text = "".join(part if i % 2 else outside_code(part) for i, part in enumerate(parts))
    tables = {
        "docs/attacks.md": {name: f"attacks/{name}.rst" for name in built_in(attacks)},
        "docs/defenses.md": {name: f"defenses/{name}.rst" for name in built_in(defenses)},
        "docs/public_api.md": {name: f"api/{name}.rst" for name in public_modules()},
    }
    return with_links(text, tables.get(source.relative_to(ROOT).as_posix(), {}))


def with_links(text: str, pages: Mapping[str, str]) -> str:
    """Return the text with links from the names in the first column of its tables."""
    return re.sub(
        r"^\| `.*?` \|",
        lambda cell: re.sub(
            r"`([^`]+)`",
            lambda name: f"[{name[0]}]({pages[name[1]]})" if name[1] in pages else name[0],
            cell[0],
        ),
        text,
        flags=re.MULTILINE,
    )


def markdown(source: Path) -> str:
    """Return the text of a page or a notebook as it is in the repository."""
    return notebook_pages.text(source) if source.suffix == ".ipynb" else source.read_text(encoding="utf-8")


def pictures(source: Path) -> dict[Path, bytes]:
    """Return the pictures of a page."""
    if source.suffix == ".ipynb":
        return {source.parent / name: content for name, content in notebook_pages.pictures(source).items()}
    paths = [(source.parent / name).resolve() for _, name in PICTURE.findall(markdown(source))]
    return {path: path.read_bytes() for path in paths}


@cache
def keys() -> list[str]:
    """Return the keys of the papers in docs/references.md."""
    return re.findall(r"\*\*\[([^\]]+)\]\*\*", (ROOT / "docs" / "references.md").read_text(encoding="utf-8"))


def linked(docstring: str) -> str:
    """Return reStructuredText with every key of a paper linked to its entry."""
    pattern = "|".join(re.escape(key) for key in keys())
    return re.sub(rf"\[({pattern})\]", lambda m: f":ref:`[{m[1]}] <{m[1].lower()}>`", docstring)


def cited(text: str, page: Path) -> str:
    """Return Markdown with every key of a paper linked to its entry."""
    if page.name == "references.md":
        return re.sub(r"\*\*\[([^\]]+)\]\*\*", lambda m: f"[**\\[{m[1]}\\]**]{{#{m[1].lower()}}}", text)
    to = os.path.relpath("references.md", page.parent)
    pattern = "|".join(re.escape(key) for key in keys())
    return re.sub(rf"\[({pattern})\](?!\()", lambda m: f"[\\[{m[1]}\\]]({to}#{m[1].lower()})", text)


def sidebar(page: Path) -> str:
    """Return the lists of pages for the sidebar that this page opens."""
    name = page.with_suffix("").as_posix()
    if name == "index":
        return "".join(
            toctree([f"{title} <{to}>" for to, title in pages.items()], f":caption: {caption}")
            for caption, pages in NAVIGATION.items()
        )
    inside = [os.path.relpath(pattern, page.parent) for pattern in CHILDREN.get(name, [])]
    return toctree(inside, ":glob:") if inside else ""


def toctree(entries: list[str], option: str) -> str:
    """Return a list of pages that the sidebar shows and the page does not."""
    return "\n".join(["", "", "```{toctree}", ":hidden:", option, "", *entries, "```", ""])


def write(path: Path, text: str) -> None:
    """Write a page into a folder that may not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def generated() -> Iterator[tuple[str, str]]:
    """Yield the pages that come from the code: path and text."""
    for folder, kind, registry in (("attacks", "attacks", attacks), ("defenses", "defences", defenses)):
        for name, plugin in built_in(registry).items():
            yield f"{folder}/{name}.rst", plugin_page(kind, folder, name, plugin)
    for module in public_modules():
        yield f"api/{module}.rst", api_page(module)
    found = {package: files for package, files in messages.messages().items() if files}
    for package, files in found.items():
        objects = [
            getattr(import_module(module), name)
            for module in public_modules()
            if f"{module}.".startswith(f"{package}.")
            for name in import_module(module).__all__
        ]
        page = messages.page(package, files, messages.arguments(objects), REPOSITORY)
        yield f"messages/{package}.md", page
    yield "messages/index.md", messages.index(found) + sidebar(Path("messages/index"))


def built_in(package: Any) -> dict[str, type]:
    """Return dpmi's own plug-ins, without those of other installed packages."""
    return {
        name: each for name, each in package.REGISTRY.all().items() if each.__module__.startswith("dpmi.")
    }


def plugin_page(kind: str, folder: str, name: str, plugin: type) -> str:
    """Return the page of an attack or a defence, from its docstring, its fields and the constants of its file."""
    facts = described(kind, name, plugin)
    module = import_module(plugin.__module__)
    file = plugin.__module__.replace(".", "/") + ".py"
    about = re.split(r"^(?:Args|Attributes|Raises):$", inspect.getdoc(plugin) or "", flags=re.MULTILINE)[0]
    rows = [
        [
            f"``{f['name']}``",
            type_of(plugin, f),
            f"``{f['default']}``" if f["default"] else "required",
            f["meaning"],
        ]
        for f in facts.pop("fields")
    ]
    told = [f"* {label}: {text}" for label, text in facts.items() if label in ("needs", "strength", "unit")]
    constants = [
        [f"``{each}``", f"``{getattr(module, each)!r}``", " ".join(" ".join(lines).split())]
        for (scope, each), lines in ModuleAnalyzer.for_module(plugin.__module__).find_attr_docs().items()
        if not scope and not each.startswith("_")
    ]
    return "\n".join(
        [
            *heading(name, "="),
            linked(inspect.getdoc(module) or ""),
            "",
            linked(about),
            *told,
            f"* code: `{file} <{REPOSITORY}/blob/main/{file}>`__",
            f"* in Python: :class:`dpmi.{folder}.{plugin.__name__}`",
            f"* on the command line: ``dpmi list {name}``",
            "",
            *heading("Settings", "-"),
            "In a study file:",
            "",
            ".. code-block:: toml",
            "",
            f"    [[{folder}]]",
            f'    name = "{name}"',
            "",
            *(
                table(["setting", "type", "default", "what it is, its range"], rows)
                if rows
                else ["There are none.", ""]
            ),
            *(
                heading("Constants", "-") + table(["constant", "value", "what it is"], constants)
                if constants
                else []
            ),
        ]
    )


def type_of(plugin: type, field: Mapping[str, Any]) -> str:
    """Return the type of a setting as a table shows it; of a choice, the choices."""
    owner: Any = plugin
    for part in field["name"].split("."):
        owner = typing.get_type_hints(owner)[part]
    choices = typing.get_args(owner) if typing.get_origin(owner) is typing.Literal else ()
    return ", ".join(f"``{choice!r}``" for choice in choices) or f"``{field['type']}``"


def public_modules() -> list[str]:
    """Return the modules in the table of docs/public_api.md."""
    page = (ROOT / "docs" / "public_api.md").read_text(encoding="utf-8")
    return re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)))


def api_page(name: str) -> str:
    """Return the page of a public module: an entry for each name in its ``__all__``."""
    module = import_module(name)
    lines = [
        *heading(name, "="),
        f".. automodule:: {name}",
        "   :no-members:",
        "",
        f".. currentmodule:: {name}",
        "",
    ]
    for each in module.__all__:
        value = getattr(module, each)
        if inspect.isclass(value):
            kind = "exception" if issubclass(value, Exception) else "class"
            bases = ["   :show-inheritance:"] if value.__bases__ != (object,) else []
            lines += [f".. auto{kind}:: {each}", "   :members:", *bases, ""]
        elif inspect.isroutine(value) or hasattr(value, "__wrapped__"):
            lines += [f".. autofunction:: {each}", ""]
        else:
            lines += [
                f".. py:data:: {each}",
                "",
                *textwrap.indent(constant(each, value), "   ").splitlines(),
                "",
            ]
    return "\n".join(lines)


def constant(name: str, value: object) -> str:
    """Return what the file that defines a constant says of it, and the choices of a type that is a choice."""
    homes = [
        module
        for module in list(sys.modules.values())
        if module.__name__.startswith(("dpmi.", "accountants.")) and vars(module).get(name) is value
    ]
    found = (ModuleAnalyzer.for_module(home.__name__).find_attr_docs().get(("", name)) for home in homes)
    text = "\n".join(next(filter(None, found), []))
    choices = typing.get_args(value) if typing.get_origin(value) is typing.Literal else ()
    return text + "".join(f"\n\n* ``{choice!r}``" for choice in choices)


def heading(text: str, underline: str) -> list[str]:
    """Return the lines of a heading in reStructuredText."""
    return [text, underline * len(text), ""]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        cells = [textwrap.indent(cell or "\\ ", "       ").lstrip() for cell in row]
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(cells)]
    return [*lines, ""]


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
