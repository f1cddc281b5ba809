"""The text files of the repository, without those that tools and studies leave in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_BY_TOOLS = {"runs", "build"}


def files(*suffixes: str) -> Iterator[Path]:
    """Every file with one of these suffixes."""
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and path.suffix in suffixes:
            yield path
        elif path.is_dir() and not path.name.startswith(".") and path.name not in LEFT_BY_TOOLS:
            yield from (found for found in sorted(path.rglob("*")) if found.suffix in suffixes)
