"""How a hyper-parameter is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from dpmi.attacks.checks import at_least_one, check_rate, require


def test_the_message_has_name_limit_and_value() -> None:
    require("psi", 0.5, True, "at most 1")
    with pytest.raises(ValueError, match=r"^psi must be at most 1; got 1\.5$"):
        require("psi", 1.5, False, "at most 1")


def test_the_first_count_below_one_is_named() -> None:
    owner = SimpleNamespace(iterations=1, restarts=0, images=-1)
    at_least_one(owner, "iterations")
    with pytest.raises(ValueError, match=r"^restarts must be at least 1; got 0$"):
        at_least_one(owner, "iterations", "restarts", "images")


@pytest.mark.parametrize("rate", [0.0, -0.1, math.inf, math.nan])
def test_a_learning_rate_is_positive_and_finite(rate: float) -> None:
    check_rate(5e-324)
    with pytest.raises(ValueError, match=rf"^learning_rate must be above 0 and finite; got {rate}$"):
        check_rate(rate)
