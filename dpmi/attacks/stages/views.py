"""Random views of an image: small transformations that do not change the class it shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from dpmi.attacks.checks import require

Augmentation = Literal["none", "digits", "faces"]
View = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, Tensor], Tensor]
"""Maps images (n, C, H, W) and uniform random numbers (n, :data:`NUMBERS`) to a view of each image."""

#: Number of uniform random numbers that determine a view of :func:`augmentation`.
NUMBERS = 9
#: Published constants of PLG-MI: share of the area that a crop keeps, change of brightness and contrast, rotation.
AREA = (0.8, 1.0)
JITTER = 0.2
DEGREES = 5.0
#: Shares of red, green and blue in the brightness around which contrast changes.
GREY = (0.299, 0.587, 0.114)


def augmentation(name: Augmentation, *, jitter: float = 1.0) -> Augment:
    """Return a differentiable random view of each image, of the same shape [YCZ23, section 4.1, published code].

    A view crops a share of the area between :data:`AREA` and resizes it, changes brightness and contrast by up to
    :data:`JITTER`, mirrors half of the images, and rotates half of them by up to :data:`DEGREES`, with black corners.
    No image depends on the others: brightness comes before contrast, whose order the published library draws for a
    batch, and the contrast of a grey image is that around its own mean.

    Args:
        name: ``faces`` does all of this; ``digits`` does the same without the mirror, because a mirrored digit is
            another sign; ``none`` returns the images unchanged.
        jitter: probability that brightness and contrast of an image change.

    Returns:
        Maps images (n, C, H, W) in [0, 1] and uniform random numbers (n, :data:`NUMBERS`) in [0, 1) to views.

    Raises:
        ValueError: the name is none of these.
    """
    _check(name)
    if name == "none":
        return lambda images, numbers: images
    return partial(_views, mirror=_KINDS[name], jitter=jitter)


def crops(
    name: Augmentation,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (1.0, 1.0),
    mirror: bool = True,
) -> View:
    """Return a view that crops images (n, C, H, W) randomly, resizes them to their shape and mirrors half of the time.

    It draws from torch's default generator, once for the batch, as the published attacks do.

    Args:
        name: as for :func:`augmentation`; ``digits`` are never mirrored, ``none`` returns the images unchanged.
        scale: range of the share of the area that a crop keeps.
        ratio: range of the crop's aspect ratio (width to height) relative to the image's.
        mirror: whether ``faces`` are mirrored.

    Raises:
        ValueError: the name is none of these.
    """
    _check(name)
    if name == "none":
        return lambda images: images

    def view(images: Tensor) -> Tensor:
        found: Tensor = v2.RandomResizedCrop(images.shape[-2:], scale=scale, ratio=ratio, antialias=True)(
            images
        )
        return v2.RandomHorizontalFlip()(found) if mirror and _KINDS[name] else found

    return view


def _check(name: Augmentation) -> None:
    require("augmentation", name, name in _KINDS, f"one of {tuple(_KINDS)}")


#: Whether a mirror image shows the same class.
_KINDS = MappingProxyType({"none": False, "digits": False, "faces": True})


def _views(images: Tensor, numbers: Tensor, *, mirror: bool, jitter: float) -> Tensor:
    height, width = images.shape[2:]
    area, top, left, light, contrast, jittered, mirrored, rotated, angle = numbers.to(images).unbind(dim=1)
    # The published crop is drawn again while it is, after rounding, the whole image.
    largest = max(AREA[0], (1 - 0.5 / min(height, width)) ** 2)
    side = (AREA[0] + area * (largest - AREA[0])).sqrt()
    rows, columns = (side * height).round(), (side * width).round()
    first_row = (top * (height - rows + 1)).floor()
    first_column = (left * (width - columns + 1)).floor()
    sign = torch.where(mirrored < 0.5, -1, 1) if mirror else 1
    zero = torch.zeros_like(side)
    views = _resampled(
        images,
        [sign * (columns - 1) / (width - 1), zero, (2 * first_column + columns - 1) / (width - 1) - 1],
        [zero, (rows - 1) / (height - 1), (2 * first_row + rows - 1) / (height - 1) - 1],
    )

    changes = jittered < jitter
    factors = [torch.where(changes, 1 + JITTER * (2 * value - 1), 1) for value in (light, contrast)]
    light, contrast = (factor[:, None, None, None] for factor in factors)
    views = (views * light).clamp(0, 1)
    colours = views.shape[1]
    shares = GREY if colours == len(GREY) else (1 / colours,) * colours
    grey = (views.mean(dim=(2, 3)) @ views.new_tensor(shares))[:, None, None, None]
    views = (contrast * views + (1 - contrast) * grey).clamp(0, 1)

    turn = torch.where(rotated < 0.5, math.radians(DEGREES) * (2 * angle - 1), 0)
    sine, cosine, ratio = turn.sin(), turn.cos(), (height - 1) / (width - 1)
    return _resampled(views, [cosine, -sine * ratio, zero], [sine / ratio, cosine, zero])


def _resampled(images: Tensor, x: list[Tensor], y: list[Tensor]) -> Tensor:
    """Return images whose pixel (u, v) is that at (x[0] u + x[1] v + x[2], y[0] u + y[1] v + y[2]) before.

    The corner pixels of an image are at -1 and 1. Outside the image it is black.
    """
    matrices = torch.stack([torch.stack(x, dim=1), torch.stack(y, dim=1)], dim=1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)
