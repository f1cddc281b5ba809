"""Whether an attack gained anything by having the model, and how sure that is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from .baselines import Baselines

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval; NaN where undefined."""

    mean: float
    low: float
    high: float


def advantage(distances: Tensor, baselines: Baselines) -> Tensor:
    """Return (distance without the model - distance with it) / distance without it, for each class.

    Without the model an attacker hands in a blank image or the mean of the public images (see
    :class:`.baselines.Baselines`), whichever is nearer. 1 is a perfect reconstruction, 0 is nothing gained, below 0 the
    model misled the attacker.

    Args:
        distances: (R,), MIA distances of the reconstructions.
        baselines: of the same classes, in the same order, measured in the same way.

    Returns:
        float64 (R,); NaN where the distance without the model is 0 or a distance is NaN.

    Raises:
        ValueError: another number of classes than the baselines have.

    >>> nothing = torch.full((1,), torch.nan)
    >>> known = Baselines(torch.tensor([4.0]), torch.tensor([5.0]), nothing)
    >>> advantage(torch.tensor([3.0]), known)
    tensor([0.2500], dtype=torch.float64)
    """
    return _gain(distances, torch.fmin(baselines.blank, baselines.public_mean))


def advantage_over_nearest(distances: Tensor, baselines: Baselines) -> Tensor:
    """Return :func:`advantage` against the nearest public image, an oracle that no attacker has."""
    return _gain(distances, baselines.public_nearest)


def confidence_interval(
    values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
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
    table = _table(values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1); got {confidence!r}")
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


def success_rate(advantages: npt.ArrayLike) -> Interval:
    """Return the share of classes that an attack won, over seeds, with a 95 % Clopper-Pearson interval.

    It won a class on a model if its :func:`advantage` is above 0: the reconstruction is nearer to a private
    image of the class than the blank image and the mean public image, so nearer than anything that the
    attacker had without the model.

    The interval counts as many draws as there are classes, however many seeds: an attack mostly wins the same
    classes on every model, so another seed is no new draw. A mean over seeds can be a fraction of a win, for
    which the beta quantiles hold as they stand (Korn, Graubard 1998). Nothing won still gives an interval,
    where a bootstrap gives none. Classes are taken for independent, and one seed says nothing about another.

    Args:
        advantages: (seeds, classes); NaN marks a value that is undefined, and is left out.

    Raises:
        ValueError: not a table of at least one value, or an infinite value.

    >>> [round(end, 3) for end in success_rate([[0.2, -0.1, -0.3, 0.0, -0.2]])]
    [0.2, 0.005, 0.716]
    """
    table = _table(advantages)
    known = ~np.isnan(table)
    classes = int(known.any(axis=0).sum())
    if classes == 0:
        return Interval(math.nan, math.nan, math.nan)
    share = float((table[known] > 0).mean())
    won = share * classes
    low = float(stats.beta.ppf(0.025, won, classes - won + 1)) if won > 0 else 0.0
    high = float(stats.beta.ppf(0.975, won + 1, classes - won)) if won < classes else 1.0
    return Interval(share, low, high)


def _table(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or np.isinf(table).any():
        raise ValueError(
            f"values must be a finite table (seeds, classes) with an entry; got shape {table.shape}"
        )
    return table


def _gain(distances: Tensor, without: Tensor) -> Tensor:
    if distances.shape != without.shape:
        raise ValueError(
            f"distances must have one value for each of the {len(without)} classes of the baselines; "
            f"got shape {tuple(distances.shape)}"
        )
    gain = (without.double() - distances.double()) / without.double()
    return torch.where(without == 0, torch.nan, gain)
