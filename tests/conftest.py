"""Where every test begins, which files begin first, and what the tests of the planner share."""

import functools
import gc
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from accountants import planner

#: A package of its own, whose tests run where it is installed: see test_plugin_package.py.
collect_ignore = ["plugin_package"]


#: Few tests that take minutes: a core that began with them last would be the only one at work in the end.
LONGEST = ("test_notebooks.py", "test_plugin_package.py", "test_examples.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for `make shuffled-tests`."""
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="run the files in the random order of this seed"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, in their own order; or take all files in a random order."""
    seed = config.getoption("--shuffle")
    if seed is None:
        items.sort(key=lambda item: item.path.name not in LONGEST)
        return
    files = sorted({item.path for item in items})
    random.Random(seed).shuffle(files)
    places = {path: place for place, path in enumerate(files)}
    items.sort(key=lambda item: places[item.path])


def pytest_collection_finish() -> None:
    """Spare the garbage collector seven thousand tests that stay to the end: each of its runs would go through them."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter clean up."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the global generators before the fixtures: no test's numbers depend on which tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what libraries draw from)
    # torch.manual_seed formats the stack once for each kind of device that is not there, in 2 ms.
    torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session")
def calibrated_once() -> Iterator[None]:
    """Calibrate each setting once in a session: it takes a second, and the planner's other inputs do not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "calibrate", functools.cache(planner.calibrate))
        yield


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that packages are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path
