"""Convolutional generators and discriminators of GMI and KED-MI.

Networks work on squares with a side of 4 or 7 times a power of 2: 8 (the digits of scikit-learn), 28, 32, 64 and so on.
Images of another shape are resized from and to the nearest such square. ``width`` multiplies the published numbers of
channels, so that the same code builds smaller networks for a CPU.

D. Ulyanov et al., arXiv:1607.08022 (instance normalization); T. Salimans et al., "Improved Techniques for Training
GANs", NeurIPS 2016 (minibatch discrimination).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Generator, ImageShape

#: Channels of the first convolution; every further convolution that halves the image doubles them.
CHANNELS = 64

#: Discriminators halve the image down to this side.
_SMALLEST_SIDE = 4

#: Larger images need more than the seven doublings of the largest generator.
_LARGEST_SIDE = 1024

_SLOPE = 0.2


def doublings(image_shape: ImageShape) -> tuple[int, int]:
    """Return the first side of a generator, 4 or 7, and how often it is doubled to the side of its square.

    The square is the one whose side is nearest to the longer side of the images, by ratio.

    Raises:
        ValueError: a side is below 5 or above 1,024 pixels.

    >>> doublings((3, 64, 64)), doublings((1, 28, 28)), doublings((3, 48, 56)), doublings((1, 30, 30))
    ((4, 4), (7, 2), (7, 3), (4, 3))
    """
    longer = max(image_shape[1:])
    if min(image_shape[1:]) <= _SMALLEST_SIDE or longer > _LARGEST_SIDE:
        raise ValueError(
            f"image_shape must have sides of {_SMALLEST_SIDE + 1} to {_LARGEST_SIDE} pixels, to train a generator; got "
            f"{tuple(image_shape)}: resize the images, or use an attack without a generator"
        )
    sides = {base * 2**times: (base, times) for base in (4, 7) for times in range(1, 8)}
    return sides[min(sides, key=lambda side: abs(math.log(side / longer)))]


def square(image_shape: ImageShape) -> tuple[int, int]:
    """Return height and width of the square of :func:`doublings`."""
    base, times = doublings(image_shape)
    return base * 2**times, base * 2**times


def resized(images: Tensor, sides: tuple[int, int]) -> Tensor:
    """Return images (n, C, H, W) in these sides: unchanged if they have them, else resized."""
    if tuple(images.shape[2:]) == sides:
        return images
    return F.interpolate(images, sides, mode="bilinear", antialias=True)


class Resize(nn.Module):
    """:func:`resized` as a layer."""

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def extra_repr(self) -> str:
        """Return the sides."""
        return f"{self.sides[0]}, {self.sides[1]}"

    def forward(self, images: Tensor) -> Tensor:
        """Return images (n, C, *sides)."""
        return resized(images, self.sides)


def entrance(image_shape: ImageShape) -> tuple[nn.Module, ...]:
    """Return the first layers of a discriminator: one that makes images square, if they are not such a square."""
    sides = square(image_shape)
    return () if tuple(image_shape[1:]) == sides else (Resize(sides),)


def channels_of(width: float, times: int = 1) -> int:
    """Return the number of channels: :data:`CHANNELS` * width * times, rounded, at least 1."""
    return max(1, round(CHANNELS * width * times))


class ConvGenerator(Generator):
    """A linear layer and transposed 5x5 convolutions of stride 2, each with BatchNorm and ReLU; a sigmoid at the end.

    For 64x64, the channels are 512 (4x4), 256, 128 and 64. For 32x32 they start at 256 (4x4), for 28x28 at 128 (7x7).

    Args:
        latent_size: 100 in the papers.
        image_shape: (C, H, W).
        width: factor on the channels.

    Raises:
        ValueError: the image shape is not supported.
    """

    def __init__(self, latent_size: int, image_shape: ImageShape, *, width: float) -> None:
        super().__init__(latent_size, image_shape)
        side, times = doublings(image_shape)
        sizes = [channels_of(width, 2**power) for power in reversed(range(times))]
        flat = sizes[0] * side**2
        layers: list[nn.Module] = [
            nn.Linear(latent_size, flat, bias=False),
            nn.BatchNorm1d(flat),
            nn.ReLU(),
            nn.Unflatten(1, (sizes[0], side, side)),
        ]
        for before, after in pairwise(sizes):
            layers += [_double(before, after, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, _double(sizes[-1], image_shape[0], bias=True), nn.Sigmoid())

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (n, C, H, W) in [0, 1] for latents (n, latent_size)."""
        return resized(self.layers(latents), self.image_shape[1:])


class Critic(nn.Sequential):
    """5x5 convolutions of stride 2 down to 4x4, and a 4x4 convolution to one unbounded number per image.

    All but the first have InstanceNorm, which treats the images of a batch independently. The gradient penalty needs
    this, because it is defined on the gradient of one image's value by that image.

    Args:
        image_shape: (C, H, W).
        width: factor on the channels, which are 64 and double after each halving.

    Raises:
        ValueError: the image shape is not supported.
    """

    def __init__(self, image_shape: ImageShape, *, width: float) -> None:
        halvings, sizes = _halvings(image_shape), [image_shape[0]]
        sizes += [channels_of(width, 2**power) for power in range(halvings)]
        super().__init__(
            *entrance(image_shape),
            *_convolutions(sizes, kernels=[5] * halvings),
            nn.Conv2d(sizes[-1], 1, _SMALLEST_SIDE),
            nn.Flatten(0),
        )


class MinibatchDiscrimination(nn.Module):
    """The closeness of an image to the others of its batch [Salimans et al., section 3.2].

    With M_i = f_i T, a matrix of ``features`` rows per image, the feature b of image i is
    sum_j exp(-||M_ib - M_jb||_1) over the other images j of the batch. The entries of T start as N(0, 1) [CKJ21,
    published code].

    In evaluation mode the images of a batch must be independent, because an attack may query any images together. Every
    image then gets the running mean of training, as in BatchNorm.

    Args:
        size: length of f.
        features: number of features per image.
        kernel_size: length of a row of M.
        momentum: momentum of the running mean.
    """

    running_mean: Tensor

    def __init__(self, size: int, features: int, kernel_size: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.tensor = nn.Linear(size, features * kernel_size, bias=False)
        nn.init.normal_(self.tensor.weight)
        self.features = features
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (n, features) for inputs (n, size)."""
        if not self.training:
            return self.running_mean.expand(len(inputs), -1)
        rows = self.tensor(inputs).unflatten(1, (self.features, -1)).transpose(0, 1)
        closeness: Tensor = torch.cdist(rows, rows, p=1).neg().exp().sum(dim=2).T - 1
        self.running_mean.lerp_(closeness.detach().mean(dim=0), self.momentum)
        return closeness


class ClassDiscriminator(nn.Module):
    """Classifies an image into K classes; the logsumexp of the logits is high for a real image.

    Convolutions of stride 2 with InstanceNorm down to 4x4 (three for 28x28 and 32x32; four for 64x64, the last with a
    3x3 kernel), minibatch discrimination, and a linear layer [CKJ21].

    Args:
        image_shape: (C, H, W).
        num_classes: K.
        width: factor on the channels (64, 128, 256, 256) and on the sizes of minibatch discrimination, 64 features of
            length 50.

    Raises:
        ValueError: the image shape is not supported.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, *, width: float) -> None:
        super().__init__()
        halvings, sizes = _halvings(image_shape), [image_shape[0]]
        sizes += [channels_of(width, min(2**power, 4)) for power in range(halvings)]
        kernels = [5 if power < 3 else 3 for power in range(halvings)]
        self.body = nn.Sequential(*entrance(image_shape), *_convolutions(sizes, kernels), nn.Flatten())
        flat = sizes[-1] * _SMALLEST_SIDE**2
        self.closeness = MinibatchDiscrimination(flat, channels_of(width), max(1, round(50 * width)))
        self.head = nn.Linear(flat + self.closeness.features, num_classes)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flat output of the convolutions (n, d), and the logits (n, K)."""
        features = self.body(images)
        return features, self.head(torch.cat([features, self.closeness(features)], dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, K) for images (n, C, H, W)."""
        return self.features_and_logits(images)[1]


def _halvings(image_shape: ImageShape) -> int:
    """Return the number of convolutions of stride 2 down to 4x4; the padding halves 7x7 to 4x4."""
    base, times = doublings(image_shape)
    return times + (base > _SMALLEST_SIDE)


def _double(before: int, after: int, *, bias: bool) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1, bias=bias)


def _convolutions(sizes: list[int], kernels: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for kernel, (before, after) in zip(kernels, pairwise(sizes), strict=True):
        layers.append(nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2))
        if len(layers) > 1:
            layers.append(nn.InstanceNorm2d(after, affine=True))
        layers.append(nn.LeakyReLU(_SLOPE))
    return layers
