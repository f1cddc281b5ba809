"""What the committed studies weigh: everybody who clones the project loads them.

Modules: docs/results/shrink.py.
"""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def shrink() -> ModuleType:
    """The script that makes them small."""
    path = Path(__file__).parents[1] / "docs" / "results" / "shrink.py"
    spec = importlib.util.spec_from_file_location("shrink", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_results_are_small(shrink: ModuleType) -> None:
    files = shrink.shown()
    assert len(files) > 60
    assert sum(path.stat().st_size for path in files) < 6e6, "run python docs/results/shrink.py"


def test_numbers_are_shortened_and_nothing_else(shrink: ModuleType) -> None:
    assert doctest.testmod(shrink) == (0, 1)
