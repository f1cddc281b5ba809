"""Numbers as a report prints them."""

from __future__ import annotations

import pytest

from dpmi.report import words


@pytest.mark.parametrize("value", [15.924, 5.440, 0.031, 112.53, 7.0, 1.0001, 999.96])
def test_a_printed_epsilon_is_never_below_the_true_one(value: float):
    assert value <= float(words.epsilon(value)) <= value * 1.001


@pytest.mark.parametrize("value", [0.0, 0.0291, 0.33041, 0.5, 0.7166, 0.99890])
def test_a_printed_bound_is_never_below_the_true_one(value: float):
    printed = float(words.bound(value).removesuffix(f"{words.GLUE}%")) / 100
    assert value - 1e-9 <= printed < value + 1e-3
