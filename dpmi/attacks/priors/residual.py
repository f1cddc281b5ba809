"""The conditional generator and the projection discriminator of PLG-MI, both made of residual blocks.

T. Miyato and M. Koyama, "cGANs with Projection Discriminator", ICLR 2018; spectral normalization by T. Miyato et al.,
ICLR 2018. Shapes and ``width`` are those of :mod:`.networks`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from .base import Generator, ImageShape
from .networks import channels_of, doublings, entrance, resized


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose scale and shift depend on the class.

    Args:
        channels: channels of the input (n, channels, H, W).
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Normalize, then scale and shift each row by its class (n,)."""
        scale, shift = self.scale(labels), self.shift(labels)
        result: Tensor = self.normalize(inputs) * scale[:, :, None, None] + shift[:, :, None, None]
        return result


class _UpBlock(nn.Module):
    """A residual block that doubles the side by nearest neighbours."""

    def __init__(self, before: int, after: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm(before, num_classes)
        self.conv1 = _convolution(before, after, 3)
        self.norm2 = ConditionalBatchNorm(after, num_classes)
        self.conv2 = _convolution(after, after, 3)
        self.shortcut = _convolution(before, after, 1)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        hidden = self.conv1(F.interpolate(F.relu(self.norm1(inputs, labels)), scale_factor=2))
        hidden = self.conv2(F.relu(self.norm2(hidden, labels)))
        # The 1x1 convolution and the repetition of pixels commute; this order needs a quarter of the operations.
        result: Tensor = hidden + F.interpolate(self.shortcut(inputs), scale_factor=2)
        return result


class _DownBlock(nn.Module):
    """A residual block that halves the side by averages."""

    def __init__(self, before: int, after: int, *, first: bool) -> None:
        super().__init__()
        # The input of the first block are pixels, whose sign a ReLU would remove.
        self.activation = nn.Identity() if first else nn.ReLU()
        self.conv1 = spectral_norm(_convolution(before, after, 3))
        self.conv2 = spectral_norm(_convolution(after, after, 3))
        self.shortcut = spectral_norm(_convolution(before, after, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv2(F.relu(self.conv1(self.activation(inputs))))
        result: Tensor = F.avg_pool2d(hidden, 2) + self.shortcut(F.avg_pool2d(inputs, 2))
        return result


class ConditionalGenerator(Generator):
    """A linear layer and residual blocks that double the side, with conditional BatchNorm; a sigmoid at the end.

    For 64x64, the channels are 1,024 (4x4), 512, 256, 128 and 64. The published generator ends in tanh instead, with
    images in [-1, 1].

    Args:
        latent_size: 128 in the paper.
        image_shape: (C, H, W).
        num_classes: K.
        width: factor on the channels.

    Raises:
        ValueError: the image shape is not supported.
    """

    def __init__(self, latent_size: int, image_shape: ImageShape, num_classes: int, *, width: float) -> None:
        super().__init__(latent_size, image_shape, num_classes)
        side, times = doublings(image_shape)
        sizes = [channels_of(width, 2**power) for power in reversed(range(times + 1))]
        self.start = nn.Sequential(
            nn.Linear(latent_size, sizes[0] * side**2), nn.Unflatten(1, (sizes[0], side, side))
        )
        self.blocks = nn.ModuleList(_UpBlock(before, after, num_classes) for before, after in pairwise(sizes))
        self.end = nn.Sequential(
            nn.BatchNorm2d(sizes[-1]), nn.ReLU(), _convolution(sizes[-1], image_shape[0], 3), nn.Sigmoid()
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (n, C, H, W) in [0, 1] for latents (n, latent_size) and labels int64 (n,).

        Raises:
            ValueError: there are no labels.
        """
        if labels is None:
            raise ValueError("labels must be given to a conditional generator; got None")
        hidden = self.start(latents)
        for block in self.blocks:
            hidden = block(hidden, labels)
        return resized(self.end(hidden), self.image_shape[1:])


class ProjectionDiscriminator(nn.Module):
    """Residual blocks that halve the side; the output is v(phi) + <embedding of y, phi>, phi summed over positions.

    Every weight has spectral norm 1.

    Args:
        image_shape: (C, H, W).
        num_classes: K.
        width: factor on the channels, which are 64 and double in each further block; there is one block more than in
            the generator.

    Raises:
        ValueError: the image shape is not supported.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, *, width: float) -> None:
        super().__init__()
        _, times = doublings(image_shape)
        sizes = [image_shape[0], *(channels_of(width, 2**power) for power in range(times + 1))]
        self.blocks = nn.Sequential(
            *entrance(image_shape),
            *(
                _DownBlock(before, after, first=row == 0)
                for row, (before, after) in enumerate(pairwise(sizes))
            ),
            nn.ReLU(),
        )
        self.value = spectral_norm(nn.Linear(sizes[-1], 1))
        self.classes = spectral_norm(nn.Embedding(num_classes, sizes[-1]))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return unbounded scores (n,), high for images (n, C, H, W) that look real for their labels int64 (n,)."""
        features = self.blocks(images).sum(dim=(2, 3))
        result: Tensor = self.value(features)[:, 0] + torch.linalg.vecdot(self.classes(labels), features)
        return result


def _convolution(before: int, after: int, kernel: int) -> nn.Conv2d:
    """Return a convolution with the initial weights of the papers' residual networks."""
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(layer.weight, gain=2**0.5 if kernel > 1 else 1.0)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
