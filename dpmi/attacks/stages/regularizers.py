"""Regularizers of the enhanced attack, independent of any model, with their gradients.

The gradients are explicit, because automatic differentiation of the bilateral total variation takes twice the time; the
tests compare both. Each penalty is a sum over pixels, as printed in [Z20].
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

#: Window and decay of the bilateral total variation [Z20, section V-B].
BTV_WINDOW = 2
BTV_DECAY = 0.9


def l1(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return ||x||_1 (n,) of images (n, C, H, W), and the gradient [Z20, eq. 4].

    The pixels are not negative. The norm is therefore their sum, with slope 1 also at zero.

    >>> l1(torch.full((1, 1, 2, 2), 0.5))[0]
    tensor([2.])
    """
    return images.flatten(1).sum(dim=1), torch.ones_like(images)


def bilateral_total_variation(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return R_BTV (n,) of images (n, C, H, W), and a subgradient [Z20, eq. 5; Farsiu et al. 2004].

    R_BTV is the sum over l = -p..p and m = 0..p with l + m > 0 of alpha^(l+m) * ||x - S_x^l S_y^m x||_1,
    where the shift S_x^l S_y^m moves the image l columns to the right and m rows down; p is
    :data:`BTV_WINDOW` and alpha :data:`BTV_DECAY`. A pixel whose shifted partner lies outside the image adds nothing:
    the image does not wrap around. For two equal pixels the subgradient is 0.

    Raises:
        ValueError: an image side is not larger than the window.

    >>> edge = torch.tensor([[[[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]])
    >>> round(bilateral_total_variation(edge)[0].item(), 3)
    10.493
    """
    height, width = images.shape[2:]
    if min(height, width) <= BTV_WINDOW:
        raise ValueError(
            f"image_shape must have sides above {BTV_WINDOW}, the window of the bilateral total variation; "
            f"got {(height, width)}"
        )
    value = images.new_zeros(len(images))
    gradient = torch.zeros_like(images)
    for right, down, weight in _shifts():
        here = (..., slice(down, None), slice(max(right, 0), width + min(right, 0)))
        there = (..., slice(0, height - down), slice(max(-right, 0), width - max(right, 0)))
        difference = images[here] - images[there]
        value.add_(difference.abs().flatten(1).sum(dim=1), alpha=weight)
        sign = difference.sign_()
        gradient[here].add_(sign, alpha=weight)
        gradient[there].sub_(sign, alpha=weight)
    return value, gradient


@lru_cache(maxsize=1)
def _shifts() -> tuple[tuple[int, int, float], ...]:
    """Return (columns right, rows down, weight) of every term."""
    return tuple(
        (right, down, BTV_DECAY ** (right + down))
        for right in range(-BTV_WINDOW, BTV_WINDOW + 1)
        for down in range(BTV_WINDOW + 1)
        if right + down > 0
    )
