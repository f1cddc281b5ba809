"""Ceilings: the MIA distances of two images that show a class well, beside which a reconstruction's should be read.

An advantage of 1 would be a copy of a training image, which no attack on a class returns. The mean image of a class is
about the best that an attack can hand in, and another image of the class shows what recognisable means in this
distance. On some data sets both have an advantage near 0; there the distance cannot show what an attack finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpmi.data import Images
from dpmi.data.images import evenly

from .baselines import BRIGHTNESSES
from .distance import Kind, check_kind, check_labelled, check_shape, mean_images, mia_distance

#: Maximum number of unseen images of a class, evenly spaced.
_UNSEEN = 20


@dataclass(frozen=True, eq=False)
class Ceilings:
    """MIA distances of two images that need the private classes; float64 (C,), one per class.

    Args:
        class_mean: distance of the mean training image of the class at the brightness that brings it nearest.
        unseen: mean distance of images of the class that trained nothing; NaN if there are none.

    >>> from dpmi import data
    >>> digits = data.load("digits")
    >>> found = ceilings(
    ...     torch.tensor([0, 1]), digits.train.images, digits.train.labels, digits.test.images, digits.test.labels)
    >>> found.class_mean.shape, bool((found.unseen > 0).all())
    (torch.Size([2]), True)
    """

    class_mean: Tensor
    unseen: Tensor


def ceilings(
    labels: Tensor,
    private_images: Images,
    private_labels: Tensor,
    unseen_images: Images,
    unseen_labels: Tensor,
    *,
    kind: Kind = "euclidean",
) -> Ceilings:
    """Return the ceilings for each class of ``labels``.

    Args:
        labels: int64 (C,), different classes in ascending order.
        private_images: (N, C, H, W) in [0, 1], the target's training images.
        private_labels: int64 (N,).
        unseen_images: (M, C, H, W) in [0, 1], held-out images of the classes; at most 20 of each class are used.
        unseen_labels: int64 (M,).
        kind: as for :func:`dpmi.metrics.mia_distance`.

    Raises:
        ValueError: as for :func:`dpmi.metrics.mia_distance`.

    >>> train, test = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1), torch.tensor([0.7]).view(1, 1, 1, 1)
    >>> found = ceilings(torch.tensor([0]), train, torch.zeros(2).long(), test, torch.zeros(1).long())
    >>> found.unseen.round(decimals=3)  # from 0.7 to 0.6, the nearest
    tensor([0.1000], dtype=torch.float64)
    """
    check_labelled("private_images", private_images, private_labels)
    check_labelled("unseen_images", unseen_images, unseen_labels)
    check_shape("unseen_images", unseen_images, private_images)
    check_kind(kind)

    factors = torch.tensor(BRIGHTNESSES).view(-1, 1, 1, 1)
    of_means, unseen = torch.full((2, len(labels)), torch.nan, dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        bright = (factors * mean_images(private_images, private_labels, [label])).clamp(0, 1)
        members = (unseen_labels == label).nonzero()[:, 0]
        some = unseen_images[members[evenly(len(members), _UNSEEN)]]
        # Together, so that the private images of the class are read once.
        both = torch.cat([bright, some])
        found = mia_distance(both, labels[row].expand(len(both)), private_images, private_labels, kind=kind)
        of_means[row] = found.values[: len(bright)].amin()
        if len(some):
            unseen[row] = found.values[len(bright) :].mean()
    return Ceilings(of_means, unseen)
