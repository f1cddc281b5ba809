"""The committed studies: what they weigh, because everybody who clones the project loads them, and their bounds.

Modules: docs/results/shrink.py, docs/results/linkage.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
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
    assert sum(path.stat().st_size for path in files) < 6e6, "run python docs/results/shrink.py"


def test_no_picture_of_a_person_is_committed(shrink: ModuleType) -> None:
    studies = [path for path in shrink.HERE.glob("*/trials.parquet") if shrink.shows_people(path)]
    assert len(studies) > 5
    assert not [path.parent for path in studies if (path.parent / "reconstructions.webp").exists()]


def test_no_committed_cell_of_linkage_is_above_its_bound() -> None:
    linkage = script("linkage")
    found = pd.concat([linkage.cells(study) for study in linkage.studies()])
    assert len(found) > 50
    assert linkage.above_bound().empty


def test_tables_keep_trials_as_they_are_and_five_digits_of_classes(
    shrink: ModuleType, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-5, 5).repeat(100)
    table = pd.DataFrame({"trial": "a", "class_index": 3, "distance": np.append(values, np.nan), "none": 0.5})
    for name in shrink.TABLES:
        shrink.store(table, tmp_path / f"{name}.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), table)
    short = pd.read_parquet(tmp_path / "per_class.parquet")
    assert short["distance"].dtype == np.float32
    pd.testing.assert_frame_equal(short.astype(table.dtypes), table, rtol=2**-16, atol=0)
    assert (short["distance"].dropna().to_numpy().view(np.uint32) & 0xFF == 0).all()


def test_a_picture_that_is_not_passed_on_has_no_link(shrink: ModuleType) -> None:
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in shrink.HERE.glob("*/summary.md")}
    assert "](reconstructions.webp)" in pages["mnist"]
    assert "](reconstructions" not in pages["faces94"]
    assert shrink.KEPT_OUT in pages["faces94"]
