"""Random variants of photographs, the way a face set with 20 images of a person becomes one with 220.

Class DP augments Faces94 with imgaug and gives no parameters; the ranges here are ours, small enough that
every variant still shows the whole face.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_ROTATION = math.radians(8)
#: In fractions of the image's side.
MAX_SHIFT = 0.05
MAX_ZOOM = 0.10
#: Contrast multiplies the distance from the image's mean by 1 plus or minus this.
MAX_CONTRAST = 0.20
#: In grey levels, on the scale [0, 1]; as is the noise.
MAX_BRIGHTNESS = 0.10
NOISE_STD = 0.02


def augment(photos: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the photographs themselves followed by random variants of them, ``count`` images in all.

    A variant is mirrored with probability 1/2, rotated, zoomed and shifted (the border is repeated outwards),
    changed in contrast and brightness, and given Gaussian noise. Every photograph has equally many variants,
    up to one.

    Args:
        photos: float32 ``(n, C, H, W)`` in [0, 1].
        count: how many images to return, at least n.
        generator: draws every variant.

    Raises:
        ValueError: ``count`` below n.
    """
    if count < len(photos):
        raise ValueError(f"count must be at least the {len(photos)} photographs; got {count}")
    sources = torch.arange(count - len(photos)) % len(photos)
    variants = _move(photos[sources], generator)
    return torch.cat([photos, _relight(variants, generator)])


def _uniform(count: int, bound: float, generator: torch.Generator) -> Tensor:
    """Draw ``count`` values from [-bound, bound)."""
    return (2 * torch.rand(count, generator=generator) - 1) * bound


def _move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, rotate, zoom and shift each image by its own draw."""
    count, _, height, width = images.shape
    angle = _uniform(count, MAX_ROTATION, generator)
    zoom = 1 + _uniform(count, MAX_ZOOM, generator)
    mirror = 1 - 2 * torch.randint(2, (count,), generator=generator)
    # affine_grid's coordinates run from -1 to 1 on either axis, so a rotation must undo the aspect ratio.
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrices = torch.stack(
        [
            torch.stack(
                [cos * mirror, -sin * height / width, 2 * _uniform(count, MAX_SHIFT, generator)], dim=1
            ),
            torch.stack(
                [sin * mirror * width / height, cos, 2 * _uniform(count, MAX_SHIFT, generator)], dim=1
            ),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _relight(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change each image's contrast and brightness by its own draw, and add noise."""
    count = len(images)
    contrast = 1 + _uniform(count, MAX_CONTRAST, generator).reshape(count, 1, 1, 1)
    brightness = _uniform(count, MAX_BRIGHTNESS, generator).reshape(count, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator).mul_(NOISE_STD)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * contrast + mean + brightness + noise).clamp_(0, 1)
