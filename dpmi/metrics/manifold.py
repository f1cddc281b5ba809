"""Whether reconstructions of a class look like its private images, and like how many of them.

A set of features stands for its manifold: the union of balls around each, as wide as the way to its k-th nearest
neighbour. Precision is the share of reconstructions in the private manifold, recall the share of private images in that
of the reconstructions [Kynkaanniemi et al., NeurIPS 2019, eq. 1]. One outlier makes a large ball, so density counts the
balls that a reconstruction is in, over k, and coverage the private balls that have a reconstruction inside
[Naeem et al., ICML 2020, eqs. 3 and 4].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .distance import class_members
from .features import check_features
from .neighbors import PAIRS, neighbor_distances, squared_distances

#: k of model-inversion papers; also the one of Kynkaanniemi et al.
NEIGHBORS = 3

#: Of the largest squared norm: squared distances that differ by less are equal, and their difference is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Manifolds:
    """Scores of each class; float64 (C,), NaN where a class has no more than k images on the side that is needed.

    Args:
        classes: int64 (C,), ascending.
        precision: in [0, 1].
        recall: in [0, 1]; needs more than k reconstructions of the class.
        density: at least 0, about 1 where the two sets are of one distribution.
        coverage: in [0, 1].
    """

    classes: Tensor
    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor

    def means(self) -> dict[str, float]:
        """The mean of each score over the classes where it is defined; NaN if it is nowhere."""
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

    Balls are closed, so that a copy of a private image is in the private manifold, whatever its neighbours are.

    Args:
        features: (R, d) of reconstructions, as :func:`dpmi.metrics.evaluate` returns them.
        labels: int64 (R,), the class that each is meant to show.
        private_features: (N, d) of the target's training images.
        private_labels: int64 (N,).
        k: neighbours that make a ball, at least 1.
        private_balls: what :func:`balls` returns for the private images and this k, found once for many calls.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, a class without private images, or k below 1.
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
        k: neighbours that make a ball, at least 1.
    """
    found = torch.full((len(features),), torch.nan, dtype=torch.float64, device=features.device)
    for label in set(labels.tolist()):
        members = class_members(labels, label)
        found[members] = _balls(features[members].double(), k)
    return found


def _balls(points: Tensor, k: int) -> Tensor:
    if len(points) <= k:
        return points.new_full((len(points),), torch.nan)
    # Distances are those of centred features too, which leave less to cancel.
    return neighbor_distances(points - points.mean(dim=0), k)


def _scores(
    recons: Tensor, private: Tensor, private_balls: Tensor, k: int
) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage of one class."""
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
