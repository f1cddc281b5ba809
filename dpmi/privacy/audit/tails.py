"""Tail probabilities of the checks. Each is exact, or at least as large as the exact one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

Array = NDArray[np.float64]


def both(law: Any, value: int) -> float:
    """Return the two-sided p-value of a count under a frozen discrete law of scipy.stats."""
    return _twice(min(float(law.cdf(value)), float(law.sf(value - 1))))


def normal(z: float) -> float:
    """Return the two-sided p-value of a value of N(0, 1)."""
    return _twice(float(stats.norm.sf(abs(z))))


def chi_square(total: float, freedom: float, *, tolerance: float = 0.0) -> float:
    """Return the two-sided p-value of a sum of ``freedom`` squares of N(0, s^2), for any s in 1 -+ ``tolerance``."""
    ratio = total / freedom
    nearest = float(np.clip(ratio, (1 - tolerance) ** 2, (1 + tolerance) ** 2))
    scaled = total / nearest
    return _twice(min(float(stats.chi2.cdf(scaled, freedom)), float(stats.chi2.sf(scaled, freedom))))


def correlation(rho: float, dimensions: int, tried: int = 1) -> float:
    """Return the p-value of the largest of ``tried`` correlations |rho| of independent Gaussian vectors."""
    return _times(float(stats.beta.sf(min(rho * rho, 1.0), 0.5, (dimensions - 1) / 2)), tried)


def spread(counts: NDArray[np.int64], n: int, q: float) -> float:
    """Return a p-value of sum (count - n q)^2 for counts (T,) of Binomial(n, q), by Chernoff's bound on both sides."""
    support = np.arange(
        max(0, math.floor(n * q - 40 * math.sqrt(n * q * (1 - q)) - 40)),
        min(n, math.ceil(n * q + 40 * math.sqrt(n * q * (1 - q)) + 40)) + 1,
    )
    variance = n * q * (1 - q)
    if variance == 0:
        return 1.0 if (counts == round(n * q)).all() else 0.0
    values, logs = (support - n * q) ** 2 / variance, stats.binom.logpmf(support, n, q)
    total = float((((counts - n * q) ** 2) / variance).sum())
    return chernoff(total, lambda at: len(counts) * float(logsumexp(logs + at * values)))


def overlap(common: int, first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> float:
    """Return a p-value of the number of buckets that consecutive draws have in common, summed over pairs of draws.

    Given their sizes, two independent draws have a hypergeometric number in common, whose moment generating function is
    at most that of the binomial law with the same mean (Hoeffding 1963, theorem 4).

    Args:
        common: sum of the numbers in common.
        first: sizes of the earlier draws, (T,).
        second: sizes of the later draws, (T,).
        n: number of buckets.
    """
    share = first / n
    return chernoff(float(common), lambda at: float((second * np.log1p(share * np.expm1(at))).sum()))


def chernoff(total: float, log_moment: Callable[[float], float]) -> float:
    """Return Chernoff's two-sided bound exp(-sup (at * total - log_moment(at))), doubled.

    Args:
        total: the value.
        log_moment: logarithm of the moment generating function.
    """

    def cost(at: float) -> float:
        with np.errstate(over="ignore"):
            return log_moment(at) - at * total

    found = minimize_scalar(cost, bounds=(-60, 60), method="bounded", options={"xatol": 1e-9})
    return _twice(math.exp(min(0.0, float(found.fun))))


def many(p_values: Array) -> float:
    """Return the smallest p-value, corrected for their number."""
    return _times(float(p_values.min()), len(p_values))


def _twice(p: float) -> float:
    return min(1.0, 2 * p)


def _times(p: float, tried: int) -> float:
    return min(1.0, p * tried)
