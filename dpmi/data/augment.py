"""Random variants of photographs, which extend a face data set from 20 images per person to 220.

[Z20] augments Faces94 with imgaug and does not publish the parameters. The ranges here are chosen so that every variant
shows the whole face.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_ROTATION = math.radians(8)
#: Maximum shift, as a fraction of the image's side.
MAX_SHIFT = 0.05
MAX_ZOOM = 0.10
#: The contrast factor, which multiplies the distance from the image's mean, is 1 plus or minus at most this.
MAX_CONTRAST = 0.20
#: Maximum change of brightness, and standard deviation of the noise, on the scale [0, 1].
MAX_BRIGHTNESS = 0.10
NOISE_STD = 0.02


def augment(photos: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the photographs followed by random variants of them, ``count`` images in total.

    A variant is mirrored with probability 1/2, rotated, zoomed and shifted (border pixels are replicated), changed in
    contrast and brightness, and gets Gaussian noise. The numbers of variants per photograph differ by at most one.

    Args:
        photos: float32 ``(n, C, H, W)`` in [0, 1].
        count: number of returned images, at least n.
        generator: draws every variant.

    Raises:
        ValueError: ``count`` is below n.
    """
    if count < len(photos):
        raise ValueError(f"count must be at least {len(photos)}, the number of photographs; got {count}")
    sources = torch.arange(count - len(photos)) % len(photos)
    variants = _move(photos[sources], generator)
    return torch.cat([photos, _relight(variants, generator)])


def uniform(count: int, bound: float, generator: torch.Generator) -> Tensor:
    """Draw ``count`` values from [-bound, bound)."""
    return (2 * torch.rand(count, generator=generator) - 1) * bound


def _move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, rotate, zoom and shift each image by an independent draw."""
    count, _, height, width = images.shape
    angle = uniform(count, MAX_ROTATION, generator)
    zoom = 1 + uniform(count, MAX_ZOOM, generator)
    mirror = 1 - 2 * torch.randint(2, (count,), generator=generator)
    # The coordinates of affine_grid range from -1 to 1 on both axes, so a rotation must correct the aspect ratio.
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrices = [[cos * mirror, -sin * height / width], [sin * mirror * width / height, cos]]
    return moved(images, matrices, MAX_SHIFT, generator, padding="border")


def moved(
    images: Tensor,
    matrices: list[list[Tensor]],
    max_shift: float,
    generator: torch.Generator,
    *,
    padding: str,
) -> Tensor:
    """Apply a linear map and a random shift to the coordinates of each image.

    Args:
        images: ``(n, C, H, W)``.
        matrices: the four entries ``(n,)`` of each map, in the coordinates of ``affine_grid``, from -1 to 1.
        max_shift: largest shift, as a fraction of the image's side.
        generator: draws the shifts, first the horizontal ones.
        padding: what is outside of an image, as for ``grid_sample``.
    """
    rows = [torch.stack([*row, 2 * uniform(len(images), max_shift, generator)], dim=1) for row in matrices]
    grid = functional.affine_grid(
        torch.stack(rows, dim=1).to(images), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _relight(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change contrast and brightness of each image by an independent draw, and add noise."""
    count = len(images)
    contrast = 1 + uniform(count, MAX_CONTRAST, generator).reshape(count, 1, 1, 1)
    brightness = uniform(count, MAX_BRIGHTNESS, generator).reshape(count, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator).mul_(NOISE_STD)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * contrast + mean + brightness + noise).clamp_(0, 1)
