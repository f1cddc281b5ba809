"""Lower bounds on epsilon from one run with many canaries, half of them in by secret coins.

Each bound takes one score per canary; higher scores mean "in". They assume less than :mod:`.aligned`: no law of the
scores, but only that the canaries' coins are independent and that the run has the claimed privacy for each canary. They
are weaker for it: each has a *ceiling*, the bound that perfect scores would reach with this number of canaries, which
is well below the true epsilon. A bound far below the claim therefore says little; compare it with its ceiling.

The bounds are searched over all thresholds on the upper hull of the ROC curve, with a Bonferroni correction for their
number, as in JAX Privacy's ``auditing`` module, whose numbers :func:`counted`, :func:`counted_fdp` and :func:`gaussian`
reproduce.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, ndtr, ndtri

from accountants import checks

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Absolute tolerance of every epsilon here."""


class Counts(NamedTuple):
    """Canaries at or above each of n thresholds: those that were in, (n,), and those that were out, (n,)."""

    inside: NDArray[np.int64]
    outside: NDArray[np.int64]


class Guesses(NamedTuple):
    """Guesses "in" at one threshold: number of canaries, of guesses, and of right guesses."""

    canaries: int
    made: int
    right: int


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of the canaries that were in and of those that were out.

    Args:
        inside: (n,), higher means more likely in.
        outside: (m,).

    Raises:
        ValueError: there is no score on one of the sides, a score is NaN, or all scores are equal.

    >>> scores = Scores.of([3.1, 0.2, 1.9, -0.5], coins=[True, False, True, False])
    >>> scores.inside.tolist(), scores.outside.tolist(), scores.canaries
    ([3.1, 1.9], [0.2, -0.5], 4)
    """

    inside: Array
    outside: Array

    def __post_init__(self) -> None:
        for name in ("inside", "outside"):
            values = np.asarray(getattr(self, name), dtype=np.float64).ravel()
            if not len(values):
                raise ValueError(
                    f"{name} has 0 scores; an audit needs canaries on both sides: use more canaries"
                )
            if np.isnan(values).any():
                raise ValueError(f"{name} holds {int(np.isnan(values).sum())} NaN; scores must be numbers")
            object.__setattr__(self, name, values)
        if np.ptp(np.concatenate([self.inside, self.outside])) == 0:
            raise ValueError(
                f"all {self.canaries} scores are equal ({self.inside[0]:g}), so they tell nothing about the canaries: "
                "score them by something that depends on the model"
            )

    @classmethod
    def of(cls, scores: ArrayLike, coins: ArrayLike) -> Scores:
        """Split scores (n,) by coins (n,), True for the canaries that were in."""
        values, inside = np.asarray(scores, dtype=np.float64), np.asarray(coins, dtype=bool)
        return cls(values[inside], values[~inside])

    @property
    def canaries(self) -> int:
        """Number of canaries."""
        return len(self.inside) + len(self.outside)

    @cached_property
    def counts(self) -> Counts:
        """The counts at the thresholds on the hull of the ROC curve, from the lowest to above the highest score."""
        thresholds = np.append(np.union1d(self.inside, self.outside), np.inf)
        below = np.stack(
            [np.searchsorted(np.sort(side), thresholds, side="left") for side in (self.inside, self.outside)]
        )
        kept = _hull(below)
        return Counts(len(self.inside) - below[0, kept], len(self.outside) - below[1, kept])


def counted(scores: Scores, *, delta: float, confidence: float = 0.95) -> float:
    """Return the lower bound of [SNJ23], for guesses "in" only.

    Under (epsilon, delta), the number of right guesses among r is at most that of r coins with success probability
    1 / (1 + exp(-epsilon)), up to a term in delta (Theorem 5.2 and Appendix D).

    Args:
        scores: the canaries' scores.
        delta: in [0, 1].
        confidence: in (0, 1); the bound exceeds the true epsilon in at most the share 1 - confidence of all runs.
    """
    _check(delta, confidence)
    return _over_thresholds(_falsified_counts, scores, delta, confidence)


def counted_fdp(scores: Scores, *, delta: float, confidence: float = 0.95) -> float:
    """Return the lower bound of [MMC25] for Gaussian trade-off functions.

    It asks whether the counts are possible under the trade-off function of the Gaussian mechanism with
    (epsilon, delta), by their recursion ("audit_rh_with_cap"), instead of under all (epsilon, delta) mechanisms.

    Args:
        scores: the canaries' scores.
        delta: in (0, 1].
        confidence: in (0, 1).

    >>> random = np.random.default_rng(0)
    >>> scores = Scores(random.normal(2.0, size=500), random.normal(0.0, size=500))
    >>> round(counted_fdp(scores, delta=1e-5), 2), round(counted(scores, delta=1e-5), 2)
    (4.62, 3.05)
    """
    _check(delta, confidence, positive=True)
    return _over_thresholds(_falsified_fdp, scores, delta, confidence)


def gaussian(scores: Scores, *, delta: float, confidence: float = 0.95) -> float:
    """Return the lower bound of [NHS23] for Gaussian trade-off functions.

    Clopper-Pearson limits of both error rates at every threshold give mu, and mu gives epsilon ([DRS22],
    equation 6 and Corollary 2.13). It treats the canaries of one run as independent runs.

    Args:
        scores: the canaries' scores.
        delta: in (0, 1].
        confidence: in (0, 1).
    """
    _check(delta, confidence, positive=True)
    inside, outside = scores.counts
    share = (1.0 - confidence) / (2 * len(inside))
    missed = _upper(inside[0] - inside, int(inside[0]), share)
    false = _upper(outside, int(outside[0]), share)
    usable = np.maximum(missed, false) < 1 - delta
    if not usable.any():
        return 0.0
    return gdp_epsilon(float((-ndtri(false[usable]) - ndtri(missed[usable])).max()), delta)


def order_statistics(scores: Scores, *, delta: float, confidence: float = 0.95) -> float:
    """Return a lower bound from the signs of the r most extreme scores, after [XWX25].

    The auditor guesses only the r canaries whose scores are farthest from the middle. Under mu-GDP such guesses are
    right at most as often as those for n independent values of N(+-mu / 2, 1), whose number has a law in closed form:
    given the r-th largest magnitude t, the others are above t independently, and a guess at magnitude u is right with
    probability 1 / (1 + exp(-mu u)). Several r are tried, with a Bonferroni correction.

    Args:
        scores: the canaries' scores; their middle is the mean of the two sides' medians, or 0 for coins of +-1.
        delta: in (0, 1].
        confidence: in (0, 1).
    """
    _check(delta, confidence, positive=True)
    middle = (np.median(scores.inside) + np.median(scores.outside)) / 2
    values = np.concatenate([scores.inside, scores.outside]) - middle
    right = np.concatenate([scores.inside > middle, scores.outside < middle])
    right = right[np.argsort(-np.abs(values), kind="stable")]
    n = len(values)
    sizes = sorted({max(1, round(n * part)) for part in (0.1, 0.25, 0.5, 1.0)})
    share = (1.0 - confidence) / len(sizes)
    best = 0.0
    for r in sizes:
        v = int(right[:r].sum())

        def excess(mu: float, r: int = r, v: int = v) -> float:
            return right_among_extremes(mu, n, r, v) - share

        if excess(best) >= 0:
            continue
        above = max(2 * best, 1.0)
        while excess(above) < 0 and above < 100:
            above *= 2
        best = float(brentq(excess, best, above, xtol=TOLERANCE)) if above < 100 else above
    return gdp_epsilon(best, delta)


def right_among_extremes(mu: float, n: int, r: int, v: int) -> float:
    """Return the probability that v or more of the r most extreme of n values of N(+-mu / 2, 1) have the right sign."""
    if v <= 0:
        return 1.0
    # |x| of one value has survival function s(t); the r-th largest of n is at s(t) ~ Beta(r, n - r + 1).
    places, weights = _quadrature()
    tail = stats.beta.ppf(places, r, n - r + 1)
    t = _magnitude(mu, tail)
    at = expit(mu * t)
    above = ndtr(mu / 2 - t) / np.maximum(tail, 1e-300)  # right and beyond t, given beyond t
    above = np.clip(above, 0.5, 1.0)
    found = at * stats.binom.sf(v - 2, r - 1, above) + (1 - at) * stats.binom.sf(v - 1, r - 1, above)
    return float((weights * found).sum())


@cache
def _quadrature() -> tuple[Array, Array]:
    """Return the nodes and weights of Gauss and Legendre's rule on [0, 1], (400,) each."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return (nodes + 1) / 2, weights / 2


def _magnitude(mu: float, tail: Array) -> Array:
    """Return t with P(|x| > t) = tail for x of N(mu / 2, 1), by bisection, (n,)."""
    low, high = np.zeros_like(tail), np.full_like(tail, mu / 2 + 40.0)
    for _ in range(80):
        middle = (low + high) / 2
        larger = ndtr(mu / 2 - middle) + ndtr(-mu / 2 - middle) > tail
        low, high = np.where(larger, middle, low), np.where(larger, high, middle)
    return (low + high) / 2


def gdp_epsilon(mu: float, delta: float) -> float:
    """Return epsilon of mu-GDP at a delta ([DRS22], Corollary 2.13)."""
    if mu <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        first = log_ndtr(-epsilon / mu + mu / 2)
        second = epsilon + log_ndtr(-epsilon / mu - mu / 2)
        return (
            float(first + np.log1p(-np.exp(min(second - first, 0.0))) - math.log(delta))
            if second < first
            else -1.0
        )

    if excess(0.0) <= 0:
        return 0.0
    above = 1.0
    while excess(above) > 0:
        above *= 2
    return float(brentq(excess, 0.0, above, xtol=TOLERANCE))


def clopper_pearson(
    inside: ArrayLike, outside: ArrayLike, *, threshold: float, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """Return the lower bound from many independent runs at one threshold [JUO20].

    epsilon >= log((TPR - delta) / FPR), with Clopper-Pearson limits of both rates, and the same for the opposite guess.

    Args:
        inside: scores of the runs with the canary, (n,).
        outside: scores of the runs without it, (m,).
        threshold: chosen on other runs; runs at or above it are guessed "in".
        delta: in [0, 1].
        confidence: in (0, 1).

    >>> random = np.random.default_rng(0)
    >>> inside, outside = random.normal(2.0, size=1000), random.normal(0.0, size=1000)
    >>> round(clopper_pearson(inside, outside, threshold=2.0, delta=1e-5), 2)
    2.51
    """
    _check(delta, confidence)
    side_in, side_out = np.asarray(inside), np.asarray(outside)
    share = (1.0 - confidence) / 4
    best = 0.0
    for above_in, above_out in (
        (side_in >= threshold, side_out >= threshold),
        (side_out < threshold, side_in < threshold),
    ):
        true = 1.0 - _upper(np.array([(~above_in).sum()]), len(above_in), share)[0]
        false = _upper(np.array([above_out.sum()]), len(above_out), share)[0]
        if true > delta:
            best = max(best, math.log((true - delta) / false))
    return best


def game(won: int, games: int, *, chance: float, delta: float, confidence: float = 0.95) -> float:
    """Return the lower bound from independent games whose chance of a win without the unit is known.

    By definition, the probability of a win is at most exp(epsilon) * chance + delta. Linkage is such a game for a class
    (chance 1 / candidates, replace-one adjacency), if one class of each model counts, because the classes of one model
    are not independent.

    Args:
        won: number of games won.
        games: number of games, at least 1.
        chance: probability in (0, 1] of a win if the unit is replaced, or removed.
        delta: in [0, 1].
        confidence: in (0.5, 1).

    Raises:
        ValueError: an argument is out of range.

    >>> round(game(won=30, games=40, chance=1 / 10, delta=1e-3), 2)  # linked in 30 of 40 models, among ten classes
    1.81
    >>> game(won=4, games=40, chance=1 / 10, delta=1e-3)  # as often as by chance
    0.0
    """
    _check(delta, confidence)
    checks.integer("games", games, minimum=1)
    if not 0 <= checks.integer("won", won, minimum=0) <= games:
        raise ValueError(f"won is {won}, but there were {games} games; it must be from 0 to {games}")
    if not 0 < checks.real("chance", chance) <= 1:
        raise ValueError(f"chance must be in (0, 1], got {chance}")
    least = float(stats.beta.ppf(1.0 - confidence, won, games - won + 1)) if won else 0.0
    return max(0.0, math.log((least - delta) / chance)) if least > delta else 0.0


def _over_thresholds(
    falsified: Callable[[float, Guesses, float, float], float],
    scores: Scores,
    delta: float,
    confidence: float,
) -> float:
    inside, outside = scores.counts
    share = (1.0 - confidence) / len(inside)
    best = 0.0
    # The thresholds with the highest precision come first; most others then fail the first test.
    guesses = inside + outside
    order = np.argsort(-(1.0 - _upper(outside, guesses, 1.0 - confidence)), kind="stable")
    for i in order.tolist():
        made, right = int(guesses[i]), int(inside[i])
        if made == 0 or right / made <= expit(best):
            continue
        tried = Guesses(scores.canaries, made, right)
        best = _largest(lambda e, tried=tried: falsified(e, tried, share, delta), best)  # type: ignore[misc]
    return best


def _largest(falsified: Callable[[float], float], at_least: float) -> float:
    """Return the largest epsilon >= ``at_least`` that is falsified (positive value), or ``at_least``."""
    if falsified(at_least) <= 0:
        return at_least
    low, high = at_least, max(1.0, 2 * at_least)
    while falsified(high) > 0:
        low, high = high, 2 * high
    return float(brentq(falsified, low, high, xtol=TOLERANCE))


def _falsified_counts(epsilon: float, guesses: Guesses, share: float, delta: float) -> float:
    m, made, right = guesses
    p = expit(epsilon)
    beta = stats.binom.sf(right - 1, made, p)
    alpha = 0.0
    if delta:
        i = np.arange(1, right + 1)
        alpha = max(0.0, float(((stats.binom.sf(right - i - 1, made, p) - beta) / i).max(initial=0.0)))
    return float(share - min(1.0, beta + 2 * m * delta * alpha))


def _falsified_fdp(epsilon: float, guesses: Guesses, share: float, delta: float) -> float:
    m, made, right = guesses
    mu = gdp_mu(epsilon, delta)
    r, h = share * right / m, share * (made - right) / m
    for i in range(right - 1, -1, -1):
        new = max(h, float(ndtr(ndtri(r) - mu))) if math.isfinite(mu) else max(h, float(r == 1.0))
        if new == h:
            break
        r, h = min(r + i / (made - i) * (new - h), 1.0), new
    return r + h - made / m


def gdp_mu(epsilon: float, delta: float) -> float:
    """Return mu of the Gaussian mechanism that is exactly (epsilon, delta)-DP; the inverse of :func:`gdp_epsilon`."""
    high = 1.0
    while _gdp_delta(high, epsilon) < delta:
        high *= 2
        if high > 1e6:
            return math.inf
    return float(brentq(lambda mu: _gdp_delta(mu, epsilon) - delta, 0.0, high, xtol=1e-12, rtol=1e-12))


def _gdp_delta(mu: float, epsilon: float) -> float:
    if mu == 0:
        return 0.0
    return float(ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def _upper(successes: NDArray[np.int64], trials: int | NDArray[np.int64], share: float) -> Array:
    """Return the upper Clopper-Pearson limit at a one-sided error of ``share``, (n,)."""
    found: Array = np.where(
        successes < trials,
        stats.beta.ppf(1 - share, successes + 1, np.maximum(trials - successes, 1e-300)),
        1.0,
    )
    return found


def _hull(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the vertices of the upper hull of points (2, n) whose first coordinate ascends."""
    kept = np.arange(points.shape[1])
    while len(kept) > 2:
        step = np.diff(points[:, kept])
        turn = step[1, :-1] * step[0, 1:] - step[1, 1:] * step[0, :-1]
        if not (turn <= 0).any():
            break
        kept = kept[np.concatenate([[True], turn > 0, [True]])]
    return kept


def _check(delta: float, confidence: float, *, positive: bool = False) -> None:
    value = checks.real("delta", delta)
    if not 0 <= value <= 1 or (positive and value == 0):
        raise ValueError(f"delta must be in {'(0' if positive else '[0'}, 1], got {delta}")
    if not 0.5 < checks.real("confidence", confidence) < 1:
        raise ValueError(f"confidence must be in (0.5, 1), got {confidence}")
