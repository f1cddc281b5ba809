"""MIA distance: how far a reconstruction is from the nearest private training image of its class.

["Broadening differential privacy for deep learning against model inversion", section III]: the minimum, not
the average, because it is the worst case. Smaller means that the attacker came closer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .neighbors import nearest_neighbors
from .ssim import LocalMoments, most_similar

Kind = Literal["euclidean", "ssim"]


@dataclass(frozen=True, eq=False)
class Distances:
    """One distance per reconstruction.

    Args:
        values: float64 (R,). Of :func:`mia_distance`: ||x - recon||_2 over pixels in [0, 1] or 1 - SSIM, in [0, 2];
            other functions say what they return.
        nearest: int64 (R,), the index of the nearest private image among all that were given.
    """

    values: Tensor
    nearest: Tensor

    @property
    def mean(self) -> float:
        """The mean over reconstructions, which the papers report."""
        return float(self.values.mean())


def mia_distance(
    recons: Tensor,
    labels: Tensor,
    private_images: Tensor,
    private_labels: Tensor,
    *,
    kind: Kind = "euclidean",
) -> Distances:
    """Return the distance of each reconstruction from the nearest private image of its class.

    The images are compared as they are: never rescaled, never rounded to 8 bits. Memory is bounded by a chunk
    of private images, whatever their number.

    Args:
        recons: (R, C, H, W) in [0, 1].
        labels: int64 (R,), the class that each is meant to show.
        private_images: (N, C, H, W) in [0, 1], the target's training images.
        private_labels: int64 (N,).
        kind: ``euclidean`` (digits, objects) or ``ssim`` (faces; 11x11 Gaussian window, sigma 1.5).

    Raises:
        ValueError: shapes that do not fit, values outside [0, 1] or not finite, a class without private
            images, an unknown kind, or images smaller than the window of SSIM.

    >>> private = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    >>> recon = torch.full((1, 1, 1, 1), 0.75)
    >>> found = mia_distance(recon, torch.tensor([0]), private, torch.tensor([0, 0, 1]))
    >>> found.values, found.nearest
    (tensor([0.2500], dtype=torch.float64), tensor([1]))
    """
    check_labelled("recons", recons, labels)
    check_labelled("private_images", private_images, private_labels)
    check_shape("recons", recons, private_images)
    check_kind(kind)
    values = torch.full((len(recons),), torch.nan, dtype=torch.float64)
    nearest = torch.zeros(len(recons), dtype=torch.int64)
    moments = LocalMoments.of(recons) if kind == "ssim" else None
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0]
        members = class_members(private_labels, label)
        if moments is None:
            values[rows], nearest[rows] = nearest_neighbors(recons[rows], private_images, members)
        else:
            similarity, nearest[rows] = most_similar(moments[rows], private_images, members)
            values[rows] = 1 - similarity.double()
    return Distances(values=values, nearest=nearest)


def class_members(private_labels: Tensor, label: int) -> Tensor:
    """Return the indices of the private images of one class.

    Raises:
        ValueError: it has none.
    """
    members = (private_labels == label).nonzero()[:, 0]
    if len(members) == 0:
        raise ValueError(f"class {label} has no private image: there is nothing to measure a distance from")
    return members


def check_labelled(name: str, images: Tensor, labels: Tensor) -> None:
    """Refuse images that are not (n, C, H, W) in [0, 1], n at least 1, or labels not int64 (n,)."""
    check_images(name, images)
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"the labels of {name} must be int64 of shape ({len(images)},); "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )


def check_images(name: str, images: Tensor) -> None:
    """Refuse images that are not (n, C, H, W), finite and in [0, 1], with n at least 1."""
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"{name} must be (n, C, H, W) with n at least 1; got shape {tuple(images.shape)}")
    low, high = (float(end) for end in images.aminmax())
    if not (low >= 0 and high <= 1):  # so written, NaN is refused too
        raise ValueError(f"{name} must have pixels in [0, 1]; they range from {low:g} to {high:g}")


def check_shape(name: str, images: Tensor, private_images: Tensor) -> None:
    """Refuse images of another shape than the private ones."""
    if images.shape[1:] != private_images.shape[1:]:
        raise ValueError(
            f"{name} have shape {tuple(images.shape[1:])}, "
            f"the private images {tuple(private_images.shape[1:])}; resize one of them"
        )


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of distance."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {get_args(Kind)}; got {kind!r}")
