"""No circle of imports, and none from a lower floor to a higher one; also none for types or inside functions.

Modules: accountants, dpmi.
"""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = {
    "accountants": 0,
    "privacy": 1,
    "defenses": 2,
    "attacks": 2,
    "metrics": 2,
    "study": 3,
    "report": 4,
    "cli": 5,
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path): path for package in ("accountants", "dpmi") for path in (ROOT / package).rglob("*.py")
}


def imported_by(name: str) -> set[str]:
    """Every module of ours that a module names in an import statement, wherever it stands."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {each if (each := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
    return found & MODULES.keys() - {name}


IMPORTS = {name: imported_by(name) for name in MODULES}


def floor(name: str) -> int | None:
    return FLOORS.get(name.removeprefix("dpmi.").partition(".")[0])


def test_no_circles() -> None:
    tuple(graphlib.TopologicalSorter(IMPORTS).static_order())


def test_no_import_from_a_lower_floor_to_a_higher_one() -> None:
    pairs = [(floor(name), floor(each), name, each) for name in IMPORTS for each in IMPORTS[name]]
    assert [pair for pair in pairs if pair[0] is not None and pair[1] is not None and pair[0] < pair[1]] == []


def test_the_rule_sees_what_it_is_about() -> None:
    assert len(MODULES) > 200
    assert "dpmi.privacy.engine" in IMPORTS["dpmi.privacy"]
    assert "accountants.ledger" in IMPORTS["accountants"]
