"""The committed studies: what they weigh, because everybody who clones the project loads them, and their bounds.

Modules: docs/results/shrink.py, docs/results/linkage.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest


def script(name: str) -> ModuleType:
    """A script of docs/results."""
    path = Path(__file__).parents[1] / "docs" / "results" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shrink() -> ModuleType:
    """The script that makes them small."""
    return script("shrink")


def test_committed_results_are_small(shrink: ModuleType) -> None:
    files = shrink.shown()
    assert len(files) > 60
    assert sum(path.stat().st_size for path in files) < 8e6, "run python docs/results/shrink.py"


def test_no_picture_of_a_person_is_committed(shrink: ModuleType) -> None:
    studies = [path for path in shrink.HERE.glob("*/trials.parquet") if shrink.shows_people(path)]
    assert len(studies) > 5
    assert not [path.parent for path in studies if (path.parent / "reconstructions.png").exists()]


def test_no_committed_cell_of_linkage_is_above_its_bound() -> None:
    linkage = script("linkage")
    found = pd.concat([linkage.cells(study) for study in linkage.studies()])
    assert len(found) > 50
    assert linkage.above_bound().empty
