"""The public names of the last release; ``python -m tests.packaging.released`` writes those of this version."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import dpmi

from ..test_public_api import PUBLIC

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("released.json")


def public_names() -> list[str]:
    """Every name of docs/public_api.md, as module.name; read and not imported, since a module may need an extra."""
    found = []
    for module in PUBLIC:
        path = ROOT.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found += [f"{module}.{name}" for name in ast.literal_eval(node.value)]
    return sorted(found)


def last() -> tuple[str | None, list[str]]:
    """Version of the last release, None before the first, and its public names."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    return stored["version"], stored["names"]


def untold(before: list[str], now: list[str], section: str) -> list[str]:
    """The names that came or went, and that a section of the changelog does not mention.

    Args:
        before: public names of the last release.
        now: public names of this version.
        section: the section of this version.
    """
    return [name for name in sorted({*before} ^ {*now}) if name.rpartition(".")[2] not in section]


def write() -> None:
    """Write this version and its public names, which is then the last release."""
    stored = {"version": dpmi.__version__, "names": public_names()}
    FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
