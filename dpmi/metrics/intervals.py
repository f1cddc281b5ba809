"""The 95 % confidence intervals of dpmi, and their assumptions of independence.

:func:`student_interval` is for independent runs (seeds), :func:`paired_difference` for pairs of runs with one seed,
:func:`confidence_interval` for seeds and classes (a bootstrap of both), :func:`games_interval` for won games of several
models, :func:`share_interval` for counts of successes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval; NaN where undefined.

    >>> found = student_interval([7.0, 8.0, 9.0])
    >>> f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"
    '8.00 (5.52 to 10.48)'
    """

    mean: float
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def student_interval(
    values: Iterable[float],
    possible: tuple[float, float] = (-math.inf, math.inf),
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of independent runs with a Student interval; NaN and infinite values are omitted.

    One run has a mean but no interval: both ends are NaN. For normally distributed values the interval is exact from
    two runs on, unlike a bootstrap, which is too narrow for few runs.

    Args:
        values: one for each run.
        possible: range of the quantity. The interval is clipped to this range, which excludes no possible value.
        confidence: in (0, 1).

    Raises:
        ValueError: ``confidence`` is outside (0, 1).

    >>> student_interval([0.9])
    Interval(mean=0.9, low=nan, high=nan)
    >>> student_interval([0.8, 1.0], possible=(0.0, 1.0))
    Interval(mean=0.9, low=0.0, high=1.0)
    """
    _check_confidence(confidence)
    finite = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    if finite.size == 0:
        return UNKNOWN
    mean = float(finite.mean())
    if finite.size == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + confidence) / 2, finite.size - 1) * stats.sem(finite))
    return Interval(mean, max(mean - half, possible[0]), min(mean + half, possible[1]))


def paired_difference(
    values: npt.ArrayLike, reference: npt.ArrayLike, *, confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean of ``values - reference``, of runs with the same seeds, with a Student interval over seeds.

    The independent units are the seeds: the attacked classes of one model share its training, so their differences are
    averaged first, and each seed gives one number. The classes are fixed, not a sample; the interval covers other seeds
    with the same classes. It is the interval of a paired t-test (``scipy.stats.ttest_rel``). The two models of a pair
    share the starts of the attack, and the initial weights if they have the same architecture; the difference cancels
    the common effect of both.

    Args:
        values: (seeds, classes), or (seeds,) for a measure of the whole model.
        reference: the same seeds and classes, in the same order. A class with any NaN is omitted.
        confidence: in (0, 1).

    Returns:
        The mean and its interval; both ends are NaN for one seed, and all three are NaN if every class is omitted.

    Raises:
        ValueError: the shapes differ, or ``confidence`` is outside (0, 1).

    >>> difference = paired_difference([[1.0, 2.0], [1.0, 4.0]], [[0.0, 1.0], [1.0, 1.0]])
    >>> difference.mean  # of 1 and 1.5
    1.25
    """
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim not in (1, 2) or len(ours) == 0:
        raise ValueError(
            "values and reference must be tables (seeds, classes) of one shape, with at least 1 seed; got "
            f"{ours.shape} and {theirs.shape}"
        )
    differences = (ours - theirs).reshape(len(ours), -1)
    known = differences[:, np.isfinite(differences).all(axis=0)]
    return student_interval(known.mean(axis=1) if known.size else (), confidence=confidence)


def confidence_interval(
    values: npt.ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean over seeds and classes with a two-way bootstrap percentile interval.

    Each resample draws seeds and classes with replacement, independently, and averages the table of all drawn pairs.
    The single values are not independent: the attacked classes of one model share its training, and the seeds share
    their classes. With one seed only classes are resampled, and the interval does not cover another training run; with
    one class only seeds are resampled. With one value both ends are NaN. Few seeds give an interval that is too narrow:
    by the factor sqrt((S - 1) / S) for S seeds and classes without effect.

    Args:
        values: (seeds, classes); NaN marks an undefined value, which is omitted.
        confidence: nominal coverage of the interval, in (0, 1).
        resamples: number of resamples.
        seed: seed of the resamples; the same seed gives the same interval.

    Raises:
        ValueError: there is no table of at least one value, a value is infinite, or ``confidence`` is outside (0, 1).

    >>> confidence_interval([[1.0, 1.0], [1.0, 1.0]])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    table = finite_table(values)
    _check_confidence(confidence)
    known = ~np.isnan(table)
    if known.sum() < 2:
        return Interval(float(table[known].sum()) if known.any() else math.nan, math.nan, math.nan)
    random = np.random.default_rng(seed)
    seeds, classes = (random.multinomial(n, np.full(n, 1 / n), size=resamples) for n in table.shape)
    filled = np.where(known, table, 0.0)
    sums = np.einsum("bs,sc,bc->b", seeds, filled, classes, optimize=True)
    counts = np.einsum("bs,sc,bc->b", seeds, known.astype(np.float64), classes, optimize=True)
    means = sums[counts > 0] / counts[counts > 0]  # a resample of only undefined values has no mean
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(table[known].mean()), float(low), float(high))


def games_interval(values: npt.ArrayLike) -> Interval:
    """Return the share of won games of several models with a 95 % interval that has a width even if all are alike.

    It is :func:`confidence_interval`. A bootstrap of games that all ended alike has no width; the interval is then that
    of :func:`share_interval` for half as many independent games, because the games of one model are correlated. In
    linkage, the variance of the mean is about twice that of independent games.

    Args:
        values: (models, classes) in [0, 1]; NaN marks a game that was not played.

    Raises:
        ValueError: as :func:`confidence_interval`.

    >>> [round(end, 2) for end in games_interval([[1.0, 1.0, 1.0, 1.0, 1.0]] * 4)]
    [1.0, 0.69, 1.0]
    """
    found = confidence_interval(values)
    table = finite_table(values)
    won = table[~np.isnan(table)]
    if len(won) > 1 and won.min() == won.max() and won[0] in (0.0, 1.0):
        return share_interval(float(won[0]), len(won) // 2)
    return found


def share_interval(share: float, count: int) -> Interval:
    """Return a share of ``count`` independent draws with its 95 % Clopper-Pearson interval.

    Args:
        share: in [0, 1]. share * count need not be an integer, for example for a mean over several models; the beta
            quantiles remain valid (Korn, Graubard 1998).
        count: number of draws; 0 gives no interval (NaN).

    >>> [round(end, 4) for end in share_interval(0.0, 10)]
    [0.0, 0.0, 0.3085]
    """
    if count == 0:
        return UNKNOWN
    won, tail = share * count, (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, won, count - won + 1)) if won > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, won + 1, count - won)) if won < count else 1.0
    return Interval(share, low, high)


def finite_table(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the values as a table (seeds, classes), float64, which may contain NaN.

    Raises:
        ValueError: the values are not a table, the table is empty, or a value is infinite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or np.isinf(table).any():
        raise ValueError(
            f"values must be a finite table (seeds, classes) with at least one entry; got shape {table.shape}"
        )
    return table


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence!r}")
