"""Every module has a test file of its name, or stands at the end of the docstring of one that spans modules.

Modules: accountants, dpmi.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def file_of(module: Path) -> Path:
    """The test file of a module's name."""
    package, *folders = module.relative_to(ROOT).parent.parts
    return ROOT.joinpath("tests", *folders if package == "dpmi" else [package], f"test_{module.name}")


MODULES = {
    file_of(module): module
    for package in ("accountants", "dpmi")
    for module in ROOT.glob(f"{package}/**/*.py")
    if not module.stem.startswith("__")
}
#: Without the tests of documents and distributions, and those of a package of its own.
SPANNING = [
    file
    for file in sorted(ROOT.glob("tests/**/test_*.py"))
    if file not in MODULES and not {"docs", "packaging", "plugin_package"} & {*file.relative_to(ROOT).parts}
]


def named(file: Path) -> list[Path]:
    """The paths at the end of a test file's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    found = re.search(r"\n\nModules: ([^:]+)\.\Z", docstring)
    assert found is not None, f"{file} has the name of no module: end its docstring with `Modules: <paths>.`"
    return [ROOT / path for path in re.split(r",\s+", found.group(1))]


@pytest.mark.parametrize("file", SPANNING, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_file_of_another_name_names_its_modules(file: Path) -> None:
    assert [path for path in named(file) if not path.exists()] == []


def test_every_module_has_tests() -> None:
    spanned = {path for file in SPANNING for path in named(file)}
    assert [
        module for file, module in MODULES.items() if not file.exists() and module not in spanned
    ] == [], "give it a test file of its name, or name it in the file that tests it"
