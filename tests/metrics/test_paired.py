"""Paired differences: against scipy's t-test, and how often the interval covers the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dpmi.metrics import paired_difference


def test_it_is_the_interval_of_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(2, 1, (5, 7)), random.normal(1, 1, (5, 7))
    found = paired_difference(one, other)
    expected = stats.ttest_rel(one.mean(axis=1), other.mean(axis=1))
    low, high = expected.confidence_interval(0.95)
    assert found == pytest.approx((one.mean() - other.mean(), low, high), rel=1e-12)
    assert paired_difference(one.mean(axis=1), other.mean(axis=1)) == pytest.approx(found, rel=1e-12)
    assert paired_difference(other, one) == pytest.approx((-found.mean, -high, -low), rel=1e-12)


def test_closed_form_of_two_seeds() -> None:
    """Differences 1 and 3: mean 2, standard error 1, and t of one degree of freedom is tan(0.475 pi)."""
    found = paired_difference([[4.0], [5.0]], [[3.0], [2.0]])
    assert found == pytest.approx((2, 2 - math.tan(0.475 * math.pi), 2 + math.tan(0.475 * math.pi)))


def test_what_both_owe_to_a_seed_or_a_class_cancels() -> None:
    random = np.random.default_rng(1)
    shared = random.normal(0, 10, (4, 1)) + random.normal(0, 10, (1, 6))
    assert paired_difference(shared + 0.5, shared) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_covers_the_truth_as_often_as_it_says(seeds: int) -> None:
    """Seeds have an effect of their own, for each model; counting every class as a value misses it."""
    random = np.random.default_rng(seeds)
    runs, classes, truth = 4000, 10, 0.3
    per_class = random.normal(0, 0.1, (1, classes))  # fixed: the classes of the data set
    per_class -= per_class.mean()
    covered = naive = 0
    for _ in range(runs):
        one = truth + per_class + random.normal(0, 0.2, (seeds, 1)) + random.normal(0, 0.1, (seeds, classes))
        other = random.normal(0, 0.2, (seeds, 1)) + random.normal(0, 0.1, (seeds, classes))
        found = paired_difference(one, other)
        covered += found.low <= truth <= found.high
        low, high = stats.ttest_rel(one.ravel(), other.ravel()).confidence_interval(0.95)
        naive += low <= truth <= high
    # Four standard errors of a share of 0.95.
    assert abs(covered / runs - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs)
    assert naive / runs < 0.9, "or this simulation could not tell the two apart"


def test_ends_are_unknown_where_one_seed_gives_none() -> None:
    found = paired_difference([[1.0, 2.0]], [[0.0, 0.0]])
    assert found.mean == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_class_that_is_undefined_anywhere_is_left_out() -> None:
    found = paired_difference([[1.0, 9.0], [3.0, math.nan]], [[0.0, 0.0], [0.0, 0.0]])
    assert found == paired_difference([[1.0], [3.0]], [[0.0], [0.0]])
    assert math.isnan(paired_difference([[math.nan]], [[1.0]]).mean)


@pytest.mark.parametrize(
    ("values", "reference", "confidence", "message"),
    [
        ([[1.0, 2.0]], [[1.0]], 0.95, r"of one shape, with at least 1 seed; got \(1, 2\) and \(1, 1\)"),
        ([], [], 0.95, "at least 1 seed"),
        ([[1.0]], [[1.0]], 1.0, r"confidence must be in \(0, 1\); got 1.0"),
    ],
)
def test_mistakes(values: list[float], reference: list[float], confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(values, reference, confidence=confidence)
