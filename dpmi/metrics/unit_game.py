"""The unit game: whether a model tells which units trained it. A unit is a subclass, a record or a user.

A random half of the units of every group trains the model (:mod:`dpmi.data.halves`). An attacker gives every unit a
number, the larger the more the model knows the unit. The AUC is the probability that a unit that is in has a larger
number than a unit of its group that is out, plus half the probability that they are equal. Without the model it is
exactly 1/2 on average, whatever the numbers are.

The attack is that of LiRA without its fit of a distribution (N. Carlini et al., "Membership Inference Attacks From
First Principles", IEEE S&P 2022): the margin of a unit under the model, minus its mean under reference models that were
trained without the unit and so show how hard the unit is.

**Bound.** Let u and v be two units of a group of which one is in, and D the other units that are in. The model is then
trained on D + u or on D + v, with equal probability. Let P_u and P_v be the distributions of everything that a run on
these releases, and Q that of a run on D alone, the neighbour of both by removal of one unit. The attacker is fixed in
advance. Let kappa = Q(number of u > number of v) + Q(equal) / 2. By the trade-off function of the run, u wins under P_u
with probability at most B(kappa), and v wins under P_v with probability at most B(1 - kappa), where B is
:func:`accountants.reconstruction_bound`. B is concave, so the mean of the two is at most B(1/2). The AUC is a mean of
such means over pairs and D, so AUC <= B(1/2) on average over the draws (J. Hayes, S. Mahloujifar, B. Balle, "Bounding
Training Data Reconstruction in DP-SGD", NeurIPS 2023, Theorem 2).

Units of different groups are not compared: halves of equal size make the membership of one unit depend on that of the
others of its group, so two units of different groups have no such D. The epsilon must be that of the unit of the game.
"""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from dpmi.data import Images

from .accuracy import BATCH_SIZE, _logits
from .per_class import class_means


def margins(model: nn.Module, images: Images, labels: Tensor, *, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return the margin of every image, l_y - log sum over k != y of exp l_k for logits l and class y, in nats.

    It is the logit of the probability of y, without the rounding of a probability near 1 (Carlini et al. 2022).

    Args:
        model: maps images (n, C, H, W) to logits (n, K), K at least 2.
        images: float32 (N, C, H, W), N at least 1.
        labels: int64 (N,), each in [0, K).
        batch_size: images per forward pass.

    Returns:
        float64 (N,).

    Raises:
        ValueError: as for :func:`dpmi.metrics.accuracy`.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    >>> margins(nn.Flatten(), logits[:, :, None, None], torch.tensor([0, 1])).tolist()
    [2.0, -2.0]
    """
    logits, own = _logits(model, images, labels, batch_size).double(), labels.cpu()[:, None]
    others = logits.scatter(1, own, -torch.inf)
    return logits.gather(1, own)[:, 0] - others.logsumexp(dim=1)


def unit_statistics(target: Tensor, references: Tensor, out: Tensor, units: Tensor) -> Tensor:
    """Return the statistic of every unit: its mean margin under the target minus its mean under the references.

    Args:
        target: (N,), the margin of each record under the target.
        references: (R, N), the margins under reference models.
        out: bool (R, N), whether the record's unit is out of the reference model; others are not used.
        units: int64 (N,), the unit of each record, 0..U-1, each with at least one record.

    Returns:
        float64 (U,).

    Raises:
        ValueError: the shapes do not fit, or a record has no reference model.

    >>> target, references = torch.tensor([5.0, 1.0]), torch.tensor([[2.0, 1.0], [3.0, 0.0]])
    >>> out = torch.tensor([[True, False], [True, True]])  # the first record is out of both reference models
    >>> unit_statistics(target, references, out, units=torch.tensor([0, 1])).tolist()
    [2.5, 1.0]
    """
    if target.ndim != 1 or references.shape[1:] != target.shape or out.shape != references.shape:
        raise ValueError(
            "target must be (N,), and references and out (R, N); got shapes "
            f"{tuple(target.shape)}, {tuple(references.shape)} and {tuple(out.shape)}"
        )
    count = out.sum(dim=0)
    if len(count) and int(count.min()) == 0:
        raise ValueError(
            f"every record needs a reference model that its unit is out of; record {int(count.argmin())} has none"
        )
    expected = torch.where(out, references.double(), 0.0).sum(dim=0) / count
    return class_means(target.double() - expected, units)[1]


def unit_auc(statistics: Tensor, inside: Tensor, groups: Tensor) -> float:
    """Return the AUC of the unit game, in [0, 1]: over all pairs of a unit that is in and one of its group that is out.

    Args:
        statistics: (U,), one number per unit; larger means in.
        inside: bool (U,), which units are in.
        groups: int64 (U,), the group of each unit.

    Raises:
        ValueError: the shapes differ, a number is not finite, or no group has both a unit that is in and one that is
            out.

    >>> unit_auc(torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([True, True, False, False]), torch.zeros(4).long())
    0.625
    """
    if statistics.ndim != 1 or not statistics.shape == inside.shape == groups.shape:
        raise ValueError(
            "statistics, inside and groups must have one entry per unit; got shapes "
            f"{tuple(statistics.shape)}, {tuple(inside.shape)} and {tuple(groups.shape)}"
        )
    if not bool(statistics.isfinite().all()):
        raise ValueError("statistics must be finite; check that the training of the models converged")
    values, place = torch.unique(statistics, return_inverse=True)
    _, group, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    count = torch.zeros_like(sizes).index_add_(0, group, inside.long())
    pairs = int((count * (sizes - count)).sum())
    if pairs == 0:
        raise ValueError(
            "inside must name, in some group, a unit that is in and one that is out; it does not"
        )
    # A rank counts the units below, 1/2 per equal one (Mann-Whitney); no table of all pairs is needed. Ordered by group
    # first, a unit's rank in its group is its rank among all minus the number of units in the groups before.
    rank = torch.from_numpy(rankdata((group * len(values) + place).numpy()))
    rank -= (sizes.cumsum(dim=0) - sizes)[group]
    larger = float(rank[inside].sum()) - float((count * (count + 1)).sum()) / 2
    return larger / pairs
