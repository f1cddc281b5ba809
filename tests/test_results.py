"""What the committed studies weigh: everybody who clones the project loads them."""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "results"
SHOWN = {".md", ".csv", ".png", ".toml", ".py"}  # what else is there, a study keeps to go on from


def test_committed_results_are_small() -> None:
    weights = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.suffix in SHOWN}
    assert len(weights) > 60
    assert sum(weights.values()) < 6e6, "run python docs/results/shrink.py"


def test_numbers_are_shortened_and_nothing_else() -> None:
    spec = importlib.util.spec_from_file_location("shrink", FOLDER / "shrink.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert doctest.testmod(module) == (0, 1)
