"""What the tests of the planner share."""

import functools
from collections.abc import Iterator

import pytest

from accountants import planner

#: A package of its own, whose tests run where it is installed: see test_plugin_package.py.
collect_ignore = ["plugin_package"]


@pytest.fixture(scope="session")
def calibrated_once() -> Iterator[None]:
    """Calibrate each setting once in a session: it takes a second, and the planner's other inputs do not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "calibrate", functools.cache(planner.calibrate))
        yield
