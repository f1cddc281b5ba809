"""Hockey-stick divergences of mixtures of Gaussians on a line, by quadrature: what a step really releases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Numbers = npt.NDArray[np.float64]


def hockey_stick(
    upper: Numbers, of_upper: Numbers, lower: Numbers, of_lower: Numbers, sigma: float, at: float
) -> float:
    """The integral of the positive part of p - e^at q, for means and weights of the two mixtures."""
    means = np.concatenate([upper, lower])
    x = np.linspace(means.min() - 9 * sigma, means.max() + 9 * sigma, 8001)

    def density(means: Numbers, weights: Numbers) -> Numbers:
        found: Numbers = norm.pdf(x[:, np.newaxis], means, sigma) @ weights
        return found

    positive = np.maximum(density(upper, of_upper) - math.exp(at) * density(lower, of_lower), 0.0)
    return float(positive.sum() * (x[1] - x[0]))


def gaussian(distance: float, at: float) -> float:
    """The same for one Gaussian against another, so many standard deviations apart (Balle, Wang 2018, Thm 8)."""
    lower = math.exp(at + norm.logcdf(-distance / 2 - at / distance))
    return float(norm.cdf(distance / 2 - at / distance) - lower)


def drawn(units: int, numbers: list[int]) -> list[tuple[int, ...]]:
    """All sets of so many of the units."""
    return [each for number in numbers for each in itertools.combinations(range(units), number)]


def sums(sets: list[tuple[int, ...]], contributions: Numbers) -> Numbers:
    """The sum that each set of units contributes."""
    return np.array([contributions[list(each)].sum() for each in sets])
