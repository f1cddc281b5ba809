"""Tail probabilities: valid under the law that they are of, and small for what contradicts it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dpmi.privacy.audit import tails


def test_spread_of_binomial_counts_is_an_upper_bound_of_its_p_value() -> None:
    generator = np.random.default_rng(0)
    found = np.array([tails.spread(generator.binomial(30, 0.2, 40), 30, 0.2) for _ in range(300)])
    for level in (0.5, 0.1, 0.05):
        assert (found < level).mean() <= level
    fixed, doubled = np.full(40, 6), np.resize([2, 10], 40)
    assert tails.spread(fixed, 30, 0.2) < 1e-12
    assert tails.spread(doubled, 30, 0.2) < 1e-6
    assert tails.spread(np.full(5, 30), 30, 1.0) == 1.0
    assert tails.spread(np.full(5, 29), 30, 1.0) == 0.0


def test_overlap_of_draws_is_an_upper_bound_of_its_p_value() -> None:
    generator = np.random.default_rng(0)

    def p_of(draws: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> float:
        sizes = draws.sum(1)
        common = int((draws[1:] & draws[:-1]).sum())
        return tails.overlap(common, sizes[:-1], sizes[1:], draws.shape[1])

    found = np.array([p_of(generator.random((30, 40)) < 0.2) for _ in range(200)])
    for level in (0.5, 0.1, 0.05):
        assert (found < level).mean() <= level
    assert p_of(np.repeat(generator.random((1, 40)) < 0.3, 30, axis=0)) < 1e-12
    shuffled = np.zeros((40, 40), dtype=bool)  # epochs without replacement: nothing in common
    for start in range(0, 40, 4):
        for row, part in enumerate(np.split(generator.permutation(40), 4)):
            shuffled[start + row, part] = True
    assert p_of(shuffled[:4]) < 1e-2


@pytest.mark.parametrize(
    ("deviation", "tolerance", "least", "most"), [(1.0, 0.0, 0.05, 1), (0.9, 0.0, 0, 1e-9)]
)
def test_chi_square(deviation: float, tolerance: float, least: float, most: float) -> None:
    values = np.random.default_rng(1).normal(size=4000) * deviation
    assert least <= tails.chi_square(float((values**2).sum()), 4000, tolerance=tolerance) <= most


def test_chi_square_forgives_its_tolerance_only() -> None:
    assert tails.chi_square(1e8 * 1.0009**2, 1e8, tolerance=1e-3) > 0.5
    assert tails.chi_square(1e8 * 1.002**2, 1e8, tolerance=1e-3) < 1e-6
    assert tails.chi_square(0.0, 100) == 0.0


def test_correlation_is_that_of_student() -> None:
    rho, n = 0.4, 30
    t = rho * np.sqrt((n - 1) / (1 - rho**2))
    assert tails.correlation(rho, n) == pytest.approx(2 * stats.t.sf(t, n - 1))
    assert tails.correlation(rho, n, tried=5) == pytest.approx(10 * stats.t.sf(t, n - 1))
    assert tails.correlation(1.0, n) == 0.0


def test_counts_are_two_sided_and_many_are_corrected() -> None:
    law = stats.binom(20, 0.5)
    assert tails.both(law, 10) == 1.0
    assert tails.both(law, 20) == tails.both(law, 0) == pytest.approx(2 * 0.5**20)
    assert tails.many(np.array([0.5, 0.01, 0.2])) == pytest.approx(0.03)
