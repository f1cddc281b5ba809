"""Range checks: what each lets through, as which number, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from accountants import checks

INSIDE: list[tuple[Callable[[Any], float], Any, float]] = [
    (checks.sampling_rate, 1, 1.0),
    (checks.sampling_rate, Fraction(1, 4), 0.25),
    (checks.noise_multiplier, 0, 0.0),
    (checks.noise_multiplier, np.float32(1.5), 1.5),
    (checks.delta, 1e-300, 1e-300),
    (checks.delta, math.nextafter(1, 0), math.nextafter(1, 0)),
]
OUTSIDE: list[tuple[Callable[[Any], float], Any]] = [
    *((checks.sampling_rate, value) for value in (0, -0.1, math.nextafter(1, 2), math.nan)),
    *((checks.noise_multiplier, value) for value in (-0.1, math.inf, Fraction(10**400))),
    *((checks.delta, value) for value in (0, 1, -1e-9, math.nan)),
]


@pytest.mark.parametrize(("check", "value", "expected"), INSIDE)
def test_a_number_inside_its_range_is_a_float(
    check: Callable[[Any], float], value: Any, expected: float
) -> None:
    found = check(value)
    assert (type(found), found) == (float, expected)


@pytest.mark.parametrize(("check", "value"), OUTSIDE)
def test_a_number_outside_its_range_is_refused_by_name(check: Callable[[Any], float], value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{check.__name__} must be .*got "):
        check(value)


@pytest.mark.parametrize("check", [checks.sampling_rate, checks.noise_multiplier, checks.delta])
@pytest.mark.parametrize("value", [True, "0.5", None])
def test_what_is_no_number_is_refused_by_name(check: Callable[[Any], float], value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{check.__name__} must be a real number, got"):
        check(value)


def test_noise_of_minus_zero_is_zero() -> None:
    assert math.copysign(1, checks.noise_multiplier(-0.0)) == 1


def test_an_integer_is_a_plain_int_of_at_least_its_minimum() -> None:
    found = checks.integer("steps", np.int64(3), minimum=3)
    assert (type(found), found) == (int, 3)
    with pytest.raises(ValueError, match=r"^steps must be at least 4, got 3"):
        checks.integer("steps", 3, minimum=4)
    for value in (3.0, True, "3"):
        with pytest.raises(TypeError, match=r"^steps must be an integer, got"):
            checks.integer("steps", value, minimum=0)


def test_an_array_is_float64_with_both_ends_of_its_range() -> None:
    found = checks.array("priors", [[0, 1], [0.5, 0.25]], lowest=0, highest=1)
    assert (found.dtype, found.tolist()) == (np.float64, [[0.0, 1.0], [0.5, 0.25]])
    for value in (-1e-9, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"^priors must be in \[0, 1\], got {value}"):
            checks.array("priors", [0.5, value], lowest=0, highest=1)
    with pytest.raises(TypeError, match=r"^priors must be real numbers"):
        checks.array("priors", ["many"], lowest=0, highest=1)


def test_a_unit_is_one_line_of_text() -> None:
    assert checks.unit("person id") == "person id"
    for value in ("", " ", "a\nb", 3, None):
        with pytest.raises(ValueError, match=r"^unit must say"):
            checks.unit(value)


def test_an_adjacency_is_one_of_two() -> None:
    assert [checks.adjacency(name) for name in ("replace", "add_remove")] == ["replace", "add_remove"]
    with pytest.raises(ValueError, match=r"^adjacency must be one of replace, add_remove, got 'both'"):
        checks.adjacency("both")
