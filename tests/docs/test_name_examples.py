"""Every public name has an example that a test executes: a doctest, a block of a page, or a cell of a notebook.

The example of a class or a function is in its docstring, or the code of another example uses the name. Constants and
type aliases have no docstrings, so other examples use them.
"""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from ..test_public_api import NOTEBOOKS, PUBLIC, code_of, public
from .repository import ROOT
from .test_blocks import BLOCK, TEXTS, reason

PACKAGES = ("accountants", "dpmi")


class Used(NamedTuple):
    """A name that code uses: where it begins, and the attributes that lead to it."""

    module: str
    path: tuple[str, ...]


def executed(docstring: str | None) -> str:
    """The code of a docstring that pytest executes."""
    found = doctest.DocTestParser().get_examples(docstring or "")
    return "".join(each.source for each in found if not each.options.get(doctest.SKIP))


def docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[str | None]:
    """Those of a module, its classes, its functions and their methods, as doctest looks for them."""
    yield ast.get_docstring(node)
    for child in () if isinstance(node, ast.FunctionDef) else node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield from docstrings(child)


def bindings(tree: ast.AST) -> dict[str, Used | None]:
    """What the names of some code are bound to: a part of a module, or something of the code's own."""
    found: dict[str, Used | None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id, None)
        elif isinstance(node, ast.arg):
            found.setdefault(node.arg, None)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.setdefault(node.name, None)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                whole, first = alias.name, alias.name.split(".")[0]
                found[alias.asname or first] = Used(whole if alias.asname else first, ())
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = Used(node.module or "", (alias.name,))
    return found


def uses(code: str, home: str = "") -> set[Used]:
    """The names of dpmi that some code uses; an import alone is no use, nor are a comment and a string.

    Args:
        code: what is executed.
        home: the module whose names the code sees, as a docstring does; "" for none.
    """
    tree = ast.parse(code)
    bound, found = bindings(tree), set()
    for node in ast.walk(tree):
        names: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
            begin = bound.get(inner.id, Used(home, (inner.id,)))
            if begin is not None and begin.module.split(".")[0] in PACKAGES:
                found.add(Used(begin.module, (*begin.path, *names)))
    return found


@cache
def used() -> frozenset[Used]:
    """Every name that an executed example uses."""
    found = set()
    for package in PACKAGES:
        for path in ROOT.joinpath(package).rglob("*.py"):
            home = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for docstring in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
                found |= uses(executed(docstring), home)
    for page, text in TEXTS.items():
        blocks = [code for language, code in BLOCK.findall(text) if language == "python"]
        found |= uses("\n".join(code for code in blocks if reason(page, code) is None))
    for notebook in NOTEBOOKS:
        found |= uses("\n".join(code_of(notebook)))
    return frozenset(found)


def leads_to(use: Used, name: str, value: object) -> bool:
    """Whether the path of a use goes through the name, and the name is the value there."""
    if name not in use.path:
        return False
    there: Any = import_module(use.module)
    for part in use.path:
        if inspect.ismodule(there) and not hasattr(there, part):
            import_module(f"{there.__name__}.{part}")
        there = getattr(there, part)
        if part == name and there is value:
            return True
        if not inspect.ismodule(there):
            break
    return False


def has_doctest(value: Any) -> bool:
    """Whether the docstring of a class, of one of its public methods, or of a function has an example."""
    methods = [
        member
        for name, member in (vars(value).items() if inspect.isclass(value) else ())
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
    ]
    told = [value, *methods] if inspect.isclass(value) or inspect.isroutine(value) else []
    return any(executed(each.__doc__) for each in told)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_executed_example(name: str) -> None:
    module = public(name)
    assert [
        each
        for each in module.__all__
        if not has_doctest(value := getattr(module, each))
        and not any(leads_to(use, each, value) for use in used())
    ] == [], f"add a doctest that shows each of these names of {name}"


NUMBER = 1


class Example:
    """No example."""

    @property
    def shown(self) -> int:
        """Return one.

        >>> NUMBER
        1
        """
        return 1

    @classmethod
    def skipped(cls) -> None:
        """Download.

        >>> NUMBER  # doctest: +SKIP
        2
        """

    def _private(self) -> None:
        """
        >>> NUMBER
        1
        """


def test_what_is_in_a_docstring_that_pytest_executes() -> None:
    assert has_doctest(Example)
    assert not has_doctest(Example.skipped)
    assert not has_doctest(type("Hidden", (), {"_private": Example._private}))
    assert not has_doctest(NUMBER)
    text = inspect.getsource(Example)
    assert [executed(each) for each in docstrings(ast.parse(text))] == ["", "", "NUMBER\n", "", "NUMBER\n"]


def test_what_code_uses() -> None:
    code = """
import accountants
import numpy as np
from accountants import epsilon as of, steps_for_epsilon
from dpmi import attacks
import dpmi.privacy.audit as audits

# Guarantee
text = "Calibration"
of(sampling_rate=np.float64(0.1)).epsilon
accountants.planner.plan_table
attacks.priors.WganGP
[audits for audit in audits.names]
"""
    assert uses(code) == {
        Used("accountants", ("epsilon",)),
        Used("accountants", ()),
        Used("accountants", ("planner",)),
        Used("accountants", ("planner", "plan_table")),
        Used("dpmi", ("attacks",)),
        Used("dpmi", ("attacks", "priors")),
        Used("dpmi", ("attacks", "priors", "WganGP")),
        Used("dpmi.privacy.audit", ()),
        Used("dpmi.privacy.audit", ("names",)),
    }
    assert uses("found = Budget(queries=found)", "dpmi.attacks.target") == {
        Used("dpmi.attacks.target", ("Budget",))
    }
    assert uses("def train(model): train(model)", "dpmi.defenses.training") == set()
    assert uses("Budget(queries=1)") == set()


def test_a_use_is_of_the_public_name_only_if_it_is_the_same_object() -> None:
    from dpmi import attacks, defenses

    use = Used("dpmi", ("attacks", "get"))
    assert leads_to(use, "get", attacks.get)
    assert not leads_to(use, "get", defenses.get)
    assert not leads_to(use, "names", attacks.names)
    assert leads_to(Used("dpmi.attacks.target", ("Budget", "queries")), "Budget", attacks.Budget)
    assert not leads_to(Used("dpmi.attacks", ("Budget", "get")), "get", attacks.get)
