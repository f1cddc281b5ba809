"""What the committed studies weigh: everybody who clones the project loads them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "results"
SHOWN = {".md", ".csv", ".png", ".toml", ".py"}  # what else is there, a study keeps to go on from


def test_committed_results_are_small() -> None:
    weights = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.suffix in SHOWN}
    assert len(weights) > 60
    assert sum(weights.values()) < 6e6, "run python docs/results/shrink.py"
