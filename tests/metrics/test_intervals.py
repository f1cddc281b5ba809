"""Every interval: against closed forms and scipy, and how often it covers the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dpmi.metrics import confidence_interval, paired_difference, student_interval


def test_student_interval_matches_the_textbook() -> None:
    # mean 3, standard deviation sqrt(2.5), t(4, .975) = 2.776445
    mean, low, high = student_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445105 * math.sqrt(2.5) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half))


def test_student_interval_leaves_out_nan_and_has_none_for_one_run() -> None:
    assert student_interval([1.0, math.nan, 1.0]) == (1.0, 1.0, 1.0)
    mean, low, high = student_interval([2.0])
    assert mean == 2.0
    assert math.isnan(low)
    assert math.isnan(high)
    assert all(math.isnan(value) for value in student_interval([math.nan]))


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
    runs, classes, truth = 1500, 10, 0.3
    per_class = random.normal(0, 0.1, (1, classes))  # fixed: the classes of the data set
    per_class -= per_class.mean()

    def measured() -> np.ndarray:
        own = random.normal(0, 0.2, (runs, seeds, 1))
        return own + random.normal(0, 0.1, (runs, seeds, classes))

    ones, others = truth + per_class + measured(), measured()
    found = [paired_difference(one, other) for one, other in zip(ones, others, strict=True)]
    covered = sum(low <= truth <= high for _, low, high in found)
    # Four standard errors of a share of 0.95.
    assert abs(covered / runs - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs)
    counted = stats.ttest_rel(ones.reshape(runs, -1), others.reshape(runs, -1), axis=1)
    low, high = counted.confidence_interval(0.95)
    naive = ((low <= truth) & (truth <= high)).mean()
    assert naive < 0.9, "or this simulation could not tell the two apart"


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


def test_interval_is_deterministic_and_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(5, 20))
    first = confidence_interval(values)
    assert first == confidence_interval(values)
    assert first != confidence_interval(values, seed=1)
    assert first.mean == pytest.approx(values.mean())
    assert first.low < first.mean < first.high
    wider = confidence_interval(values, confidence=0.99)
    assert wider.low < first.low < first.high < wider.high


def test_interval_sees_seeds_and_classes() -> None:
    """Closed form: the mean of 8 draws of 0 or 1 has standard error sqrt(1/4/8) = 0.177."""
    halves = np.array([0.0, 1.0] * 4)
    by_seed = np.repeat(halves[:, None], 50, axis=1)
    for values in (by_seed, by_seed.T):
        found = confidence_interval(values, confidence=0.6827, resamples=20_000)
        assert found.mean == 0.5
        # The binomial's own quantiles are multiples of 1/8.
        assert (found.high - found.low) / 2 == pytest.approx(0.177, abs=0.063)
    # Resampling all 400 values as if they were independent would give sqrt(1/4/400) = 0.025.


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for draw in range(200):
        values = random.normal(size=(10, 1)) + random.normal(size=(1, 40))
        found = confidence_interval(values, resamples=400, seed=draw)
        covered += found.low <= 0 <= found.high
    assert 0.85 <= covered / 200 <= 0.99


def test_one_seed_resamples_classes_only() -> None:
    found = confidence_interval([[1.0, 2.0, 3.0, 4.0]])
    assert 1 <= found.low < 2.5 < found.high <= 4
    turned = confidence_interval([[1.0], [2.0], [3.0], [4.0]])
    assert 1 <= turned.low < 2.5 < turned.high <= 4


def test_one_value_has_no_interval() -> None:
    found = confidence_interval([[0.25]])
    assert found.mean == 0.25
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_undefined_values_are_left_out() -> None:
    found = confidence_interval([[1.0, math.nan, 3.0], [1.0, math.nan, 3.0]])
    assert found.mean == 2.0
    assert (found.low, found.high) == (1.0, 3.0)
    assert all(math.isnan(x) for x in confidence_interval([[math.nan, math.nan]]))


@pytest.mark.parametrize("values", [[1.0, 2.0], [], [[]], [[math.inf, 1.0]]])
def test_bad_table(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite table"):
        confidence_interval(values)


def test_bad_confidence() -> None:
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\); got 95"):
        confidence_interval([[1.0, 2.0]], confidence=95)
