"""Whether an attack gained anything by having the model, and how sure that is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .baselines import Baselines
from .intervals import UNKNOWN, Interval, finite_table, share_interval


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


def success_rate(advantages: npt.ArrayLike) -> Interval:
    """Return the share of classes that an attack won, over seeds, with a 95 % Clopper-Pearson interval.

    It won a class on a model if its :func:`advantage` is above 0: the reconstruction is nearer to a private
    image of the class than the blank image and the mean public image, so nearer than anything that the
    attacker had without the model.

    The interval counts as many draws as there are classes, however many seeds: an attack mostly wins the same
    classes on every model, so another seed is no new draw. Nothing won still gives an interval, where a bootstrap
    gives none. Classes are taken for independent, and one seed says nothing about another.

    Args:
        advantages: (seeds, classes); NaN marks a value that is undefined, and is left out.

    Raises:
        ValueError: not a table of at least one value, or an infinite value.

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
