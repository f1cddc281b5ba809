"""Whether one model differs from another, where both were trained and attacked with the same seeds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from .advantage import Interval


def paired_difference(
    values: npt.ArrayLike, reference: npt.ArrayLike, *, confidence: float = 0.95
) -> Interval:
    """Return the mean of ``values - reference`` with a Student interval over seeds.

    Seeds are the unit of independence: the classes that are attacked on one model share its training, so their
    differences are averaged first, and each seed gives one number. Classes are those of the data set and no sample
    from others; the interval says what another seed would give for the same classes. It is exact where these numbers
    are normally distributed, for as few as two seeds, unlike a bootstrap, which is too narrow for few. It is the
    interval of a paired t-test (``scipy.stats.ttest_rel``). A pair of models shares its initial weights where the
    architecture is the same, and the starts of the attack; the difference cancels what both owe to these.

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
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence!r}")
    differences = (ours - theirs).reshape(len(ours), -1)
    per_seed = differences[:, np.isfinite(differences).all(axis=0)]
    if per_seed.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    per_seed = per_seed.mean(axis=1)
    mean = float(per_seed.mean())
    if len(per_seed) == 1:
        return Interval(mean, math.nan, math.nan)
    half = stats.t.ppf((1 + confidence) / 2, len(per_seed) - 1) * stats.sem(per_seed)
    return Interval(mean, mean - float(half), mean + float(half))
