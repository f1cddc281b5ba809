"""MIA distance: the distance of a reconstruction to the nearest private training image of its class.

It is the minimum over the images, not the average, because the minimum is the worst case [Z20, section III]. A smaller
distance means a more successful attack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dpmi.data.lazy import WHOLE, Images, LazyImages, at_once, mean_image, taken

from .neighbors import nearest_neighbors
from .ssim import LocalMoments, most_similar

Kind = Literal["euclidean", "ssim"]


@dataclass(frozen=True, eq=False)
class Distances:
    """One distance per reconstruction.

    Args:
        values: float64 (R,). For :func:`mia_distance`: ||x - recon||_2 over pixels in [0, 1], or 1 - SSIM in [0, 2];
            other functions document their values.
        nearest: int64 (R,), the index of the nearest private image among all private images.

    >>> private = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    >>> recons = torch.tensor([0.1, 0.9]).view(2, 1, 1, 1)
    >>> found = mia_distance(recons, torch.tensor([0, 1]), private, torch.tensor([0, 0, 1]))
    >>> found.nearest.tolist(), round(found.mean, 3)
    ([0, 2], 0.1)
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
    private_images: Images,
    private_labels: Tensor,
    *,
    kind: Kind = "euclidean",
) -> Distances:
    """Return the distance of each reconstruction to the nearest private image of its class.

    Images are neither rescaled nor rounded to 8 bits. A chunk of private images bounds the memory.

    Args:
        recons: (R, C, H, W) in [0, 1].
        labels: int64 (R,), the attacked class of each.
        private_images: (N, C, H, W) in [0, 1], the target's training images.
        private_labels: int64 (N,).
        kind: ``euclidean`` (digits, objects) or ``ssim`` (faces; 11x11 Gaussian window, sigma 1.5).

    Raises:
        ValueError: the shapes do not fit, values are not finite or outside [0, 1], a class has no private images, the
            kind is unknown, or the images are smaller than the window of SSIM.

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
        ValueError: the class has no private image.
    """
    members = (private_labels == label).nonzero()[:, 0]
    if len(members) == 0:
        raise ValueError(
            f"class {label} has no private image; attack only classes of the private training set"
        )
    return members


def mean_images(images: Images, labels: Tensor, classes: Iterable[int]) -> Tensor:
    """Return the mean image of each of some classes, (C, ...) for images (N, ...) with labels (N,).

    Raises:
        ValueError: a class has no image.
    """

    def mean(members: Tensor) -> Tensor:
        if len(members) <= at_once(images, WHOLE):
            return images[members].mean(dim=0)
        return mean_image(taken(images, members)).to(images.dtype)

    members = [class_members(labels, label) for label in classes]
    found = torch.empty(len(members), *images.shape[1:], dtype=images.dtype, device=images.device)
    for row, own in enumerate(members):
        found[row] = mean(own)
    return found


def check_labelled(name: str, images: Images, labels: Tensor) -> None:
    """Raise a ValueError unless images are (n, C, H, W) in [0, 1], n at least 1, and labels int64 (n,)."""
    check_images(name, images)
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"the labels of {name} must be int64 of shape ({len(images)},); "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )


def check_images(name: str, images: Images) -> None:
    """Raise a ValueError unless images are (n, C, H, W), finite and in [0, 1], n at least 1."""
    if len(images.shape) != 4 or images.shape.numel() == 0:
        raise ValueError(f"{name} must be (n, C, H, W) with n at least 1; got shape {tuple(images.shape)}")
    if isinstance(images, LazyImages):  # in [0, 1] by definition; a pass over the disk would take long
        return
    low, high = (float(end) for end in images[:].aminmax())
    if not (low >= 0 and high <= 1):  # this form also rejects NaN
        raise ValueError(f"{name} must have pixels in [0, 1]; they range from {low:g} to {high:g}")


def check_shape(name: str, images: Images, private_images: Images) -> None:
    """Raise a ValueError for images whose shape is not that of the private images."""
    if images.shape[1:] != private_images.shape[1:]:
        raise ValueError(
            f"{name} have shape {tuple(images.shape[1:])}, "
            f"the private images {tuple(private_images.shape[1:])}; resize one of them"
        )


def check_kind(kind: str) -> None:
    """Raise a ValueError for an unknown kind of distance."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {get_args(Kind)}; got {kind!r}")
