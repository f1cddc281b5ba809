"""A small discriminator for the training of a style-based generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import ImageShape
from ..networks import resized, square
from .connected import FullyConnected, activation

_EPSILON = 1e-8


class StyleDiscriminator(nn.Module):
    """Residual blocks that halve the side, the standard deviation within the batch as a channel, one score per image.

    Args:
        image_shape: (C, H, W).
        channels: channels of the blocks, fine to coarse; each block but the first halves the side.
    """

    def __init__(self, image_shape: ImageShape, channels: Sequence[int]) -> None:
        super().__init__()
        self.sides = square(image_shape)
        base = self.sides[0] // 2 ** (len(channels) - 1)
        self.fromrgb = _Convolution(image_shape[0], channels[0], 1)
        self.blocks = nn.Sequential(*(_Halving(i, o) for i, o in pairwise(channels)))
        self.conv = _Convolution(channels[-1] + 1, channels[-1], 3)
        self.fc = FullyConnected(channels[-1] * base**2, channels[-1], activate=True)
        self.out = FullyConnected(channels[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (n,), high for images (n, C, H, W) in [-1, 1] that look real."""
        x = self.blocks(activation(self.fromrgb(resized(images, self.sides))))
        x = activation(self.conv(torch.cat([x, self._spread(x)], dim=1)))
        return self.out(self.fc(x.flatten(1)))[:, 0]  # type: ignore[no-any-return]

    @staticmethod
    def _spread(x: Tensor) -> Tensor:
        """Return the mean standard deviation over the batch, as a further channel (n, 1, h, w).

        It is computed over the whole batch, not over groups of 4: with groups, all images become similar in a short
        training.
        """
        spread = (x.var(dim=0, unbiased=False) + _EPSILON).sqrt().mean()
        return spread.expand(len(x), 1, *x.shape[2:])


class _Convolution(nn.Module):
    """A convolution that keeps the side, its weights scaled as in :class:`FullyConnected`."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class _Halving(nn.Module):
    """A residual block that halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = _Convolution(inputs, inputs, 3)
        self.conv1 = _Convolution(inputs, outputs, 3)
        self.skip = _Convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        halved = F.avg_pool2d(activation(self.conv0(x)), 2)
        skipped: Tensor = self.skip(F.avg_pool2d(x, 2))
        return (activation(self.conv1(halved)) + skipped) / math.sqrt(2)
