"""How sure a mean is: every 95 % interval of dpmi, and what is independent in it.

Runs are independent: :func:`student_interval` over seeds, :func:`paired_difference` over pairs of runs with one seed.
Seeds and classes: :func:`confidence_interval`, a bootstrap of both. Counts of successes: :func:`share_interval`.
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
    """A mean and the ends of its confidence interval; NaN where undefined."""

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
    """Return the mean of independent runs with a Student interval; NaN and infinite values are left out.

    One run has a mean and no interval: both ends are NaN. It is exact where the values are normally distributed, for
    as few as two, unlike a bootstrap, which is too narrow for few.

    Args:
        values: one for each run.
        possible: range of the quantity. The interval of two runs is so wide that it can leave it; it is cut there,
            which takes away nothing that could be true.
        confidence: in (0, 1).

    Raises:
        ValueError: ``confidence`` outside (0, 1).

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

    Seeds are the unit of independence: the classes that are attacked on one model share its training, so their
    differences are averaged first, and each seed gives one number. Classes are those of the data set and no sample
    from others; the interval says what another seed would give for the same classes. It is the interval of a paired
    t-test (``scipy.stats.ttest_rel``). A pair of models shares its initial weights where the architecture is the same,
    and the starts of the attack; the difference cancels what both owe to these.

    Args:
        values: (seeds, classes), or (seeds,) for a measure of the whole model.
        reference: of the same seeds and classes, in the same order. A class that is NaN anywhere is left out.
        confidence: in (0, 1).

    Returns:
        The mean; with one seed both ends are NaN, without a class that is known all three are.

    Raises:
        ValueError: different shapes, or ``confidence`` outside (0, 1).

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

    Each resample draws seeds and classes with replacement, independently, and takes the mean of the table of
    all drawn pairs: classes attacked on one model share its training, seeds share their classes, and neither
    are independent values. With one seed only classes are drawn, and the interval says nothing about another
    training run; with one class likewise; with one value it is unknown, and both ends are NaN. Few seeds give
    an interval that is too narrow: sqrt((S - 1) / S) of its width for S seeds and classes without effect.

    Args:
        values: (seeds, classes); NaN marks a value that is undefined, and is left out.
        confidence: probability that the interval is meant to cover, in (0, 1).
        resamples: draws.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: not a table of at least one value, an infinite value, or ``confidence`` outside (0, 1).

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
    means = sums[counts > 0] / counts[counts > 0]  # a draw of undefined values alone has no mean
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(table[known].mean()), float(low), float(high))


def share_interval(share: float, count: int) -> Interval:
    """Return a share of ``count`` independent draws with its 95 % Clopper-Pearson interval.

    Args:
        share: in [0, 1]. Its count may be a fraction, as a mean over several models is: the beta quantiles hold as
            they stand (Korn, Graubard 1998).
        count: of draws. None at all give no interval.

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
    """The values as a table (seeds, classes), float64, in which NaN may stand.

    Raises:
        ValueError: it is none, it is empty, or a value is infinite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or np.isinf(table).any():
        raise ValueError(
            f"values must be a finite table (seeds, classes) with an entry; got shape {table.shape}"
        )
    return table


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence!r}")
