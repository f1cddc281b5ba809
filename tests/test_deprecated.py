"""Old names resolve to the new ones, warn at the line that uses them, and hide nothing else.

Modules: dpmi/_deprecated.py.
"""

from __future__ import annotations

import math
import types

import pytest

from dpmi._deprecated import renamed


@pytest.fixture
def module() -> types.ModuleType:
    made = types.ModuleType("dpmi.somewhere")
    made.__getattr__ = renamed("dpmi.somewhere", {"root": "math:sqrt"}, until="0.3")  # type: ignore[method-assign]
    return made


def test_an_old_name_is_the_new_one_and_warns_where_it_is_used(module: types.ModuleType) -> None:
    with pytest.warns(
        DeprecationWarning, match=r"dpmi.somewhere.root is now math.sqrt; .* until dpmi 0.3"
    ) as told:
        assert module.root is math.sqrt
    assert told[0].filename == __file__


def test_another_name_is_missing_as_ever(module: types.ModuleType) -> None:
    with pytest.raises(AttributeError, match=r"module 'dpmi.somewhere' has no attribute 'other'"):
        _ = module.other
