"""The advantage of an attack over baselines without the model, and its success rate with an interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .baselines import Baselines
from .intervals import UNKNOWN, Interval, finite_table, share_interval


def advantage(distances: Tensor, baselines: Baselines) -> Tensor:
    """Return the advantage of each class: (baseline distance - distance) / baseline distance.

    The baseline needs no model: it is a blank image or the mean of the public images (see
    :class:`.baselines.Baselines`), whichever is closer to the class. The advantage is 1 for a perfect reconstruction, 0
    for no gain, and negative if the reconstruction is worse than the baseline.

    Args:
        distances: (R,), MIA distances of the reconstructions.
        baselines: for the same classes, in the same order, with the same kind of distance.

    Returns:
        float64 (R,); NaN if the baseline distance is 0 or a distance is NaN.

    Raises:
        ValueError: the number of classes is not that of the baselines.

    >>> nothing = torch.full((1,), torch.nan)
    >>> known = Baselines(torch.tensor([4.0]), torch.tensor([5.0]), nothing)
    >>> advantage(torch.tensor([3.0]), known)
    tensor([0.2500], dtype=torch.float64)
    """
    return _gain(distances, torch.fmin(baselines.blank, baselines.public_mean))


def advantage_over_nearest(distances: Tensor, baselines: Baselines) -> Tensor:
    """Return :func:`advantage` against the nearest public image, an oracle that no attacker has.

    >>> nothing = torch.full((1,), torch.nan)
    >>> known = Baselines(nothing, nothing, public_nearest=torch.tensor([2.0]))
    >>> advantage_over_nearest(torch.tensor([3.0]), known)  # worse than the nearest public image
    tensor([-0.5000], dtype=torch.float64)
    """
    return _gain(distances, baselines.public_nearest)


def success_rate(advantages: npt.ArrayLike) -> Interval:
    """Return the share of successful attacks over seeds and classes, with a 95 % Clopper-Pearson interval.

    An attack on a class of a model is successful if its :func:`advantage` is above 0: the reconstruction is closer to a
    private image of the class than the blank image and the mean public image.

    The interval counts one draw for each class, for any number of seeds, because an attack mostly succeeds on the same
    classes of every model. Unlike a bootstrap, it also has a width for zero successes. It assumes independent classes
    and does not cover the variation between seeds.

    Args:
        advantages: (seeds, classes); NaN marks an undefined value, which is omitted.

    Raises:
        ValueError: there is no table of at least one value, or a value is infinite.

    >>> [round(end, 3) for end in success_rate([[0.2, -0.1, -0.3, 0.0, -0.2]])]
    [0.2, 0.005, 0.716]
    """
    table = finite_table(advantages)
    known = ~np.isnan(table)
    if not known.any():
        return UNKNOWN
    return share_interval(float((table[known] > 0).mean()), int(known.any(axis=0).sum()))


def _gain(distances: Tensor, without: Tensor) -> Tensor:
    if distances.shape != without.shape:
        raise ValueError(
            f"distances must have one value for each of the {len(without)} classes of the baselines; "
            f"got shape {tuple(distances.shape)}"
        )
    gain = (without.double() - distances.double()) / without.double()
    return torch.where(without == 0, torch.nan, gain)
