"""docs/public_api.md says what is public; documentation, notebooks and examples use nothing else.

Modules: accountants, dpmi.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import dpmi

ROOT = Path(__file__).parents[1]
PAGE = ROOT.joinpath("docs", "public_api.md").read_text(encoding="utf-8")
PUBLIC = re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE)))
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PROGRAMS = sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("tests/plugin_package/**/*.py")])


def code_of(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return ["".join(line for line in cell if not line.startswith(("%", "!"))) for cell in cells]
    return (
        [text]
        if path.suffix == ".py"
        else re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    )


def imports_of(code: str) -> list[tuple[str, str]]:
    """(module, name) of every import; the name is empty where the module itself is imported."""
    code = re.sub(r"^(>>>|\.\.\.) ?", "", code, flags=re.MULTILINE)
    lines = re.findall(
        r"^[ \t]*((?:from|import) (?:dpmi|accountants)\b[^\n(]*(?:\([^)]*\))?)", code, re.MULTILINE
    )
    found = []
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def public(name: str) -> ModuleType:
    """A public module; a test is skipped where the module's extra is not installed."""
    if name.startswith("dpmi.privacy.integrations."):
        pytest.importorskip(name.rpartition(".")[2], reason=f"the extra of {name} is not installed")
    return import_module(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_there_and_say_what_they_are(name: str) -> None:
    module = public(name)
    assert module.__all__ == sorted(
        set(module.__all__), key=lambda each: (not each.isupper(), each[0].islower(), each)
    )
    for each in module.__all__:
        value = getattr(module, each)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{each}"


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS, *PROGRAMS], ids=lambda path: path.name)
def test_what_a_reader_copies_uses_public_names(path: Path) -> None:
    for module, name in (found for code in code_of(path) for found in imports_of(code)):
        whole = f"{module}.{name}" if name else module
        known = whole in (*PUBLIC, "dpmi", "accountants") or (
            module in PUBLIC and name in public(module).__all__
        )
        assert known or module.startswith("dpmi_example"), whole


def test_the_version_is_that_of_the_distribution() -> None:
    assert dpmi.__version__ == version("dpmi")
    assert (
        ROOT.joinpath("pyproject.toml")
        .read_text(encoding="utf-8")
        .count('version = { attr = "dpmi.__version__" }')
        == 1
    )
