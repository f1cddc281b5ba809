"""What the tests of the planner share."""

import functools
from collections.abc import Iterator

import pytest

from accountants import planner

#: A package of its own, whose tests run where it is installed: see test_plugin_package.py.
collect_ignore = ["plugin_package"]


#: Few tests that take minutes: a core that began with them last would be the only one at work in the end.
LONGEST = ("test_notebooks.py", "test_plugin_package.py", "test_examples.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, in their own order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def calibrated_once() -> Iterator[None]:
    """Calibrate each setting once in a session: it takes a second, and the planner's other inputs do not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "calibrate", functools.cache(planner.calibrate))
        yield
