"""Renyi divergence of one step, for accounts that need moments: private selection and privacy filters.

The divergence of order a is log(integral p^a q^(1 - a)) / (a - 1) for the pair that dominates the step, as in
:mod:`accountants.mixtures`. A pair that dominates in every hockey-stick divergence dominates in every f-divergence, and
so in this one (Zhu, Dong, Wang 2022, section 2). The divergences of steps add up.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from accountants.guarantee import Adjacency
from accountants.mechanism import BucketMechanism, Mechanism, Totals, owned

Numbers = npt.NDArray[np.float64]

ORDERS: Numbers = 1 + np.geomspace(1e-2, 2e3, 140)
"""Orders at which divergences are computed; every one gives a valid epsilon, and the best is used."""

_TAIL = 10.0
"""Standard deviations beyond the outermost peaks; the mass outside is below e^-50 of the integral."""

_MOST_POINTS = 2e7
"""Most values of a density that are computed for one order; it takes a second."""

_ROUNDING = 1e-13
"""Added to the logarithm of every integral, whose rounding error is some 1e-15: no step is free."""


def divergences(totals: Totals, adjacency: Adjacency) -> Numbers:
    """Return the Renyi divergence of a run at each of `ORDERS`; infinity where float64 cannot compute it.

    Args:
        totals: steps of each mechanism.
        adjacency: "replace", or "add_remove", the larger of both directions.
    """
    found = np.zeros_like(ORDERS)
    for mechanism, steps in totals.items():
        found += steps * _of_one_step(mechanism, adjacency)
    return found


@lru_cache(maxsize=64)  # the candidates of a search and both adjacencies need the same step
def _of_one_step(mechanism: Mechanism, adjacency: Adjacency) -> Numbers:
    return np.array([divergence(mechanism, adjacency, float(order)) for order in ORDERS])


@lru_cache(maxsize=1024)  # a filter asks for the same step before every step
def divergence(mechanism: Mechanism, adjacency: Adjacency, order: float) -> float:
    """Return the Renyi divergence of one step at an order above 1, by the trapezoidal rule; infinity without noise.

    But for a Gaussian factor, a mixture with binomial weights is a polynomial in e^(x / sigma^2). Its zeros are real
    and negative, because multiplying the coefficients by e^(-j^2 / (2 sigma^2)) keeps them so (Laguerre). So the
    integrand is analytic for |Im x| < pi sigma^2, where the rule converges geometrically; the step leaves an error
    below 1e-17 of the integral.
    """
    from scipy.special import gammaln, logsumexp  # noqa: PLC0415 (slow to import)

    if not isinstance(mechanism, BucketMechanism):  # of one bucket, or as it looks to a larger unit
        raise ValueError(f"searches and filters cover Poisson sampling only, and the run has {mechanism!r}")
    if mechanism.noise_multiplier == 0:
        return np.inf
    buckets, q, sigma = owned(mechanism), mechanism.sampling_rate, mechanism.noise_multiplier
    drawn = np.arange(buckets + 1.0)
    if q == 1:
        drawn, log_weights = drawn[-1:], np.zeros(1)
    else:
        log_weights = (
            gammaln(buckets + 1)
            - gammaln(drawn + 1)
            - gammaln(buckets - drawn + 1)
            + drawn * np.log(q)
            + (buckets - drawn) * np.log1p(-q)
        )

    def log_density(x: Numbers, sign: int) -> Numbers:
        if sign == 0:
            return -x * x / (2 * sigma * sigma)
        z = (x[:, np.newaxis] - sign * drawn) / sigma
        density: Numbers = logsumexp(log_weights - z * z / 2, axis=1)
        return density

    found = -np.inf
    # Signs of the means of p and q: the peaks of p^a q^(1 - a) lie between a mean(p) - (a - 1) mean(q) and those.
    for p, q_ in {"replace": ((-1, 1),), "add_remove": ((-1, 0), (0, 1))}[adjacency]:
        low = buckets * (order * min(p, 0) - (order - 1) * max(q_, 0)) - _TAIL * sigma
        high = buckets * (order * max(p, 0) - (order - 1) * min(q_, 0) + max(q_, 0)) + _TAIL * sigma
        step = min(0.25 * sigma, 0.45 * sigma * sigma)
        if (high - low) / step * len(drawn) > _MOST_POINTS:
            return np.inf
        x = np.arange(low, high + step, step)
        log_terms = order * log_density(x, p) + (1 - order) * log_density(x, q_)
        log_integral = logsumexp(log_terms) + np.log(step / (sigma * np.sqrt(2 * np.pi)))
        found = max(found, float(log_integral))
    return (max(0.0, found) + _ROUNDING) / (order - 1)


def epsilon(divergence: float | Numbers, order: float | Numbers, delta: float) -> Numbers:
    """Return the epsilon that a divergence of an order gives (Balle, Barthe, Gaboardi, Hsu, Sato 2020, Thm 21)."""
    return np.maximum(0.0, divergence + _overhead(order, delta))


def budget(epsilon: float, order: float | Numbers, delta: float) -> Numbers:
    """Return the largest divergence of an order that gives at most this epsilon; it may be negative."""
    return epsilon - _overhead(order, delta)


def _overhead(order: float | Numbers, delta: float) -> Numbers:
    found: Numbers = np.log1p(-1 / np.asarray(order)) - (np.log(delta) + np.log(order)) / (order - 1)
    return found
