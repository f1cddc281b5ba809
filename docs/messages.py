"""The messages of errors and warnings, read from the code: the site has them so that its search finds them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: What stands for a value in a message.
VALUE = "\N{HORIZONTAL ELLIPSIS}"

#: Packages with a page of their own, and the guide that says more; the rest of dpmi has one page.
GUIDES = {
    "accountants": "epsilon.md",
    "dpmi.attacks": "attack_a_model.md",
    "dpmi.cli": "studies.md",
    "dpmi.data": "data.md",
    "dpmi.defenses": "defenses.md",
    "dpmi.metrics": "studies.md",
    "dpmi.models": "features.md",
    "dpmi.privacy": "engine.md",
    "dpmi.privacy.audit": "audit.md",
    "dpmi.report": "studies.md",
    "dpmi.study": "studies.md",
    "dpmi": "plugins.md",
}


def messages() -> dict[str, dict[str, list[str]]]:
    """Return the messages of every package of :data:`GUIDES`, by file."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in ("accountants", "dpmi")
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    makers = _makers(trees.values())
    found: dict[str, dict[str, list[str]]] = {package: {} for package in GUIDES}
    for file, tree in trees.items():
        texts = dict.fromkeys(text for node in ast.walk(tree) for text in _said(node, makers))
        if texts:
            module = file.removesuffix(".py").replace("/", ".")
            package = max((each for each in GUIDES if f"{module}.".startswith(f"{each}.")), key=len)
            found[package][file] = list(texts)
    return found


def _makers(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names of functions whose result is raised, or is the text of what is raised."""
    called = {
        name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc is not None
        for call in ast.walk(node.exc)
        if isinstance(call, ast.Call) and (name := _name(call.func))
    }
    return {name for name in called if not _is_exception(name)}


def _said(node: ast.AST, makers: set[str]) -> Iterator[str]:
    """Yield the messages that a part of a program makes."""
    if isinstance(node, ast.Call):
        name = _name(node.func)
        if _is_exception(name) or name in {"warn", "refuse"}:
            yield from _texts(node.args[:1])
    elif isinstance(node, ast.FunctionDef) and node.name in makers:
        yield from _texts(
            part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value
        )


def _texts(nodes: Iterable[ast.expr]) -> Iterator[str]:
    """Yield the texts of at least two words, one for each branch of a choice."""
    for node in nodes:
        branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
        for text in (_text(branch) for branch in branches):
            words = re.sub(rf"{VALUE}|\s+", " ", text).split()
            if len(words) > 1:
                yield " ".join(text.split())


def _text(node: ast.expr) -> str:
    """Return a text as its reader sees it."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(each) for each in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
    return VALUE


def _name(function: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _is_exception(name: str) -> bool:
    return name.endswith(("Error", "BadParameter", "Coupled", "CarriedOver"))


def arguments(objects: Iterable[object]) -> list[str]:
    """Return the names of the arguments and settings of these objects."""
    names = set[str]()
    for each in objects:
        if inspect.isclass(each):
            parts = [each, *(value for name, value in vars(each).items() if not name.startswith("_"))]
        else:
            parts = [each]
        for part in filter(callable, parts):
            try:
                names.update(inspect.signature(part).parameters)
            except ValueError:  # a class in C
                continue
    return sorted(name for name in names - {"self", "cls"} if not name.startswith("_"))


def page(package: str, files: Mapping[str, list[str]], names: Iterable[str], repository: str) -> str:
    """Return the page of a package in Markdown."""
    lines = [
        f"# Messages of {package}",
        "",
        f"What {package} says where it refuses or warns; {VALUE} stands for a value.",
        f"[What it is about](../{GUIDES[package]})",
        "",
    ]
    for file, texts in files.items():
        lines += [f"## [{file}]({repository}/blob/main/{file})", ""]
        lines += [f"- {_escaped(text)}" for text in texts]
        lines.append("")
    if names := list(names):
        lines += [
            "## Arguments",
            "",
            "Messages that begin with a value often name one of these arguments:",
            "",
        ]
        lines += [", ".join(f"`{name}`" for name in names), ""]
    return "\n".join(lines)


def index(packages: Iterable[str]) -> str:
    """Return the page that leads to the others."""
    lines = [
        "# Error messages",
        "",
        "Every message of dpmi, as its search finds it: enter the first words.",
        "",
    ]
    return "\n".join([*lines, *(f"- [{package}]({package}.md)" for package in packages), ""])


def _escaped(text: str) -> str:
    """Return a text for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#$|~^@])", r"\\\1", text)
