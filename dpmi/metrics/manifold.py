"""Precision, recall, density and coverage: how realistic and how diverse the reconstructions of a class are.

The manifold of a set of features is the union of balls around each feature; the radius is the distance to its k-th
nearest neighbour. Precision is the share of reconstructions in the manifold of the private images; recall is the share
of private images in the manifold of the reconstructions [Kynkaanniemi et al., NeurIPS 2019, eq. 1]. Both are sensitive
to outliers, which have large balls. Density is the mean number of private balls that contain a reconstruction, divided
by k; coverage is the share of private balls that contain a reconstruction [Naeem et al., ICML 2020, eqs. 3 and 4].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .distance import class_members
from .features import check_features
from .neighbors import PAIRS, neighbor_distances, squared_distances

#: The k of Kynkaanniemi et al. and of papers on model inversion.
NEIGHBORS = 3

#: Relative to the largest squared norm: a smaller difference of squared distances is rounding error.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Manifolds:
    """Scores of each class; float64 (C,), NaN for a class with too few images.

    Recall needs more than k reconstructions of the class, the other scores more than k private images.

    Args:
        classes: int64 (C,), ascending.
        precision: in [0, 1].
        recall: in [0, 1].
        density: at least 0, about 1 if both sets have the same distribution.
        coverage: in [0, 1].

    >>> line = torch.arange(5.0)[:, None]
    >>> found = manifolds(line, torch.zeros(5).long(), line, torch.zeros(5).long(), k=1)  # copies
    >>> found.means()
    {'precision': 1.0, 'recall': 1.0, 'density': 2.6, 'coverage': 1.0}
    """

    classes: Tensor
    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor

    def means(self) -> dict[str, float]:
        """Return the mean of each score over the classes in which it is defined; NaN if there are none."""
        return {
            name: float(getattr(self, name).nanmean())
            for name in ("precision", "recall", "density", "coverage")
        }


def manifolds(
    features: Tensor,
    labels: Tensor,
    private_features: Tensor,
    private_labels: Tensor,
    *,
    k: int = NEIGHBORS,
    private_balls: Tensor | None = None,
) -> Manifolds:
    """Return precision, recall, density and coverage of each class that has reconstructions.

    Balls are closed, so a copy of a private image is always in the private manifold.

    Args:
        features: (R, d) of reconstructions, as returned by :func:`dpmi.metrics.evaluate`.
        labels: int64 (R,), the attacked class of each.
        private_features: (N, d) of the target's training images.
        private_labels: int64 (N,).
        k: number of neighbours that define a ball, at least 1.
        private_balls: the result of :func:`balls` for the private images and this k, computed once for many calls.

    Raises:
        ValueError: the shapes do not fit, features are not finite, a class has no private images, or k is below 1.

    >>> private, labels = torch.arange(5.0)[:, None], torch.zeros(5).long()
    >>> recons = torch.tensor([[0.0], [0.1], [9.0]])
    >>> found = manifolds(recons, labels[:3], private, labels, k=1)
    >>> [round(float(each), 3) for each in (found.precision, found.coverage)]  # 9.0 is like no private image
    [0.667, 0.4]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    check_features(features, labels, private_features, private_labels)
    classes = sorted(set(labels.tolist()))
    scores = []
    for label in classes:
        members = class_members(private_labels, label)
        private = private_features[members].double()
        own = _balls(private, k) if private_balls is None else private_balls[members]
        scores.append(_scores(features[labels == label].double(), private, own, k))
    precision, recall, density, coverage = torch.tensor(scores, dtype=torch.float64).T
    return Manifolds(torch.tensor(classes), precision, recall, density, coverage)


def balls(features: Tensor, labels: Tensor, *, k: int = NEIGHBORS) -> Tensor:
    """Return the squared radius of each image's ball in its class, float64 (N,); NaN in a class of at most k images.

    Args:
        features: (N, d).
        labels: int64 (N,).
        k: number of neighbours that define a ball, at least 1.

    >>> balls(torch.tensor([[0.0], [1.0], [3.0]]), torch.zeros(3).long(), k=1).round(decimals=3).tolist()
    [1.0, 1.0, 4.0]
    """
    found = torch.full((len(features),), torch.nan, dtype=torch.float64, device=features.device)
    for label in set(labels.tolist()):
        members = class_members(labels, label)
        found[members] = _balls(features[members].double(), k)
    return found


def _balls(points: Tensor, k: int) -> Tensor:
    if len(points) <= k:
        return points.new_full((len(points),), torch.nan)
    # Centring does not change the distances and reduces cancellation.
    return neighbor_distances(points - points.mean(dim=0), k)


def _scores(
    recons: Tensor, private: Tensor, private_balls: Tensor, k: int
) -> tuple[float, float, float, float]:
    """Return precision, recall, density and coverage of one class."""
    centre = private.mean(dim=0)
    recons, private = recons - centre, private - centre
    rounding = _ROUNDING * float(torch.cat([recons, private]).square().sum(dim=1).max())
    private_balls, recon_balls = private_balls + rounding, _balls(recons, k) + rounding
    inside = precise = 0
    covered = torch.zeros(len(private), dtype=torch.bool)
    recalled = torch.zeros(len(private), dtype=torch.bool)
    step = max(1, PAIRS // len(private))
    for block, balls in zip(torch.split(recons, step), torch.split(recon_balls, step), strict=True):
        squared = squared_distances(block, private)
        within = squared <= private_balls
        inside += int(within.sum())
        precise += int(within.any(dim=1).sum())
        covered |= within.any(dim=0)
        recalled |= (squared <= balls[:, None]).any(dim=0)
    recall = float(recalled.double().mean()) if len(recons) > k else math.nan
    if len(private) <= k:
        return math.nan, recall, math.nan, math.nan
    return precise / len(recons), recall, inside / (k * len(recons)), float(covered.double().mean())
