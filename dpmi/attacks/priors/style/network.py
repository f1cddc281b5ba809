"""The generator of StyleGAN2-ADA, of any size.

Architecture and names are those of the published generator (skip connections to RGB, weight demodulation, learning
rates equalized, filter [1, 3, 3, 1]), so its weights give its function here, in float32 [T. Karras et al., "Analyzing
and improving the image quality of StyleGAN", CVPR 2020; "Training generative adversarial networks with limited data",
NeurIPS 2020].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import Generator, ImageShape
from .connected import FullyConnected, activation

#: The published generator bounds activations by this, and its mapping network learns at this share of the rate.
CLAMP = 256.0
MAPPING_RATE = 0.01

#: Of the binomial filter that smooths what is enlarged.
FILTER = (1.0, 3.0, 3.0, 1.0)

_EPSILON = 1e-8


class Features(NamedTuple):
    """What goes from block to block of the synthesis network.

    Args:
        hidden: (n, channels, side, side); None before the first block.
        rgb: (n, C, side, side), the image so far, about [-1, 1]; None before the first block.
    """

    hidden: Tensor | None = None
    rgb: Tensor | None = None


class Mapping(nn.Module):
    """Maps latents z to styles w, and pulls them towards their mean where that is asked for."""

    w_avg: Tensor

    def __init__(self, latent_size: int, style_size: int, layers: int, styles: int, rate: float) -> None:
        super().__init__()
        self._layers = layers
        self._styles = styles
        for number in range(layers):
            inputs = latent_size if number == 0 else style_size
            self.add_module(f"fc{number}", FullyConnected(inputs, style_size, rate=rate, activate=True))
        self.register_buffer("w_avg", torch.zeros(style_size))

    def forward(self, latents: Tensor, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Return styles (n, num_ws, style_size), the same for every layer but for the truncation.

        Args:
            latents: (n, latent_size).
            psi: truncation: the share of the way from the mean style; below 1 images are likelier, and more alike.
            cutoff: only so many layers are truncated; None truncates all.
        """
        w = latents * (latents.square().mean(dim=1, keepdim=True) + _EPSILON).rsqrt()
        for number in range(self._layers):
            w = self.get_submodule(f"fc{number}")(w)
        truncated = self.w_avg.lerp(w, psi)
        cutoff = self._styles if cutoff is None else min(cutoff, self._styles)
        return torch.stack([truncated] * cutoff + [w] * (self._styles - cutoff), dim=1)


class _StyledConvolution(nn.Module):
    """A convolution whose input channels a style scales, so that the output's scale is kept.

    The noise that is added is the same each time, as the published generator has it where images must not change.
    """

    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, style_size: int, side: int, *, enlarge: bool, clamp: float | None
    ) -> None:
        super().__init__()
        self.affine = FullyConnected(style_size, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.enlarge = enlarge
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w)
        # Scaling input and output channels is the same as a kernel for each image, and one convolution for all.
        x = x * styles[:, :, None, None]
        if self.enlarge:
            x = _smooth(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, self.weight, padding=1)
        energy = styles.square() @ self.weight.square().sum(dim=(2, 3)).T
        x = x * (energy + _EPSILON).rsqrt()[:, :, None, None]
        x = activation(x + self.noise_const * self.noise_strength + self.bias[:, None, None])
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class _ToRGB(nn.Module):
    """A 1x1 convolution to the image's channels, its input channels scaled by a style."""

    def __init__(self, inputs: int, colours: int, style_size: int, clamp: float | None) -> None:
        super().__init__()
        self.affine = FullyConnected(style_size, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(colours, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(colours))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        rgb = F.conv2d(x * styles[:, :, None, None], self.weight, self.bias)
        return rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)


class _Block(nn.Module):
    """The layers of one resolution; all but the first block double the side."""

    def __init__(
        self, inputs: int, outputs: int, *, style_size: int, side: int, colours: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.styles = 1 if inputs == 0 else 2
        if inputs == 0:
            self.const = nn.Parameter(torch.randn(outputs, side, side))
        else:
            self.conv0 = _StyledConvolution(inputs, outputs, style_size, side, enlarge=True, clamp=clamp)
        self.conv1 = _StyledConvolution(outputs, outputs, style_size, side, enlarge=False, clamp=clamp)
        self.torgb = _ToRGB(outputs, colours, style_size, clamp)

    def forward(self, features: Features, ws: Tensor) -> Features:
        hidden, rgb = features
        first = hidden is None
        hidden = self.const.expand(len(ws), -1, -1, -1) if first else self.conv0(hidden, ws[:, 0])
        hidden = self.conv1(hidden, ws[:, self.styles - 1])
        added = self.torgb(hidden, ws[:, self.styles])
        return Features(hidden, added if rgb is None else _enlarge(rgb) + added)


class Synthesis(nn.Module):
    """Makes images out of styles, block by block; a block is named by its side, "b4" or "b32".

    Args:
        style_size: length of w.
        base: side of the first block.
        channels: of each block's hidden features, coarse to fine.
        colours: C of the images.
        clamp: bound of activations.
    """

    def __init__(
        self, style_size: int, base: int, channels: Sequence[int], colours: int, clamp: float | None
    ) -> None:
        """Make the blocks."""
        super().__init__()
        sides = [base * 2**number for number in range(len(channels))]
        self.blocks = tuple(f"b{side}" for side in sides)
        for name, side, inputs, outputs in zip(self.blocks, sides, [0, *channels], channels, strict=False):
            self.add_module(
                name, _Block(inputs, outputs, style_size=style_size, side=side, colours=colours, clamp=clamp)
            )
        self.num_ws = 2 * len(channels)

    def forward(
        self,
        ws: Tensor,
        *,
        start_block: str | None = None,
        features: Features | None = None,
        end_block: str | None = None,
    ) -> Features:
        """Return what comes out of the last block; its ``rgb`` is the image, about [-1, 1].

        Args:
            ws: (n, num_ws, style_size).
            start_block: begin there, with ``features`` for what enters it; None begins at the first.
            features: what another call left before ``start_block``.
            end_block: stop before this one, and return what enters it; None goes to the end.
        """
        first = 0 if start_block is None else self.blocks.index(start_block)
        last = len(self.blocks) if end_block is None else self.blocks.index(end_block)
        features = features or Features()
        for number in range(first, last):
            # A block's last style is that of its image, and of the next block's first convolution.
            begin = max(0, 2 * number - 1)
            block = self.get_submodule(self.blocks[number])
            features = block(features, ws[:, begin : 2 * number + 2])
        return features


class StyleGenerator(Generator):
    """Latents z -> :attr:`mapping` -> styles w -> :attr:`synthesis` -> images.

    Args:
        image_shape: (C, H, W) of the images that are returned.
        latent_size: length of z.
        style_size: length of w.
        mapping_layers: between them.
        channels: of each block's hidden features, coarse to fine.
        base: side of the first block; each further block doubles it.
        rate: share of the learning rate at which the mapping network learns.
        clamp: bound of activations; None is without.
        crop: the middle of so many pixels a side is cut out before images are resized to ``image_shape``.

    Raises:
        ValueError: a crop that is larger than what the last block makes.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        latent_size: int,
        style_size: int,
        mapping_layers: int,
        channels: Sequence[int],
        base: int = 4,
        rate: float = MAPPING_RATE,
        clamp: float | None = CLAMP,
        crop: int | None = None,
    ) -> None:
        """Draw the initial weights."""
        super().__init__(latent_size, image_shape)
        side = base * 2 ** (len(channels) - 1)
        if crop is not None and not 1 <= crop <= side:
            raise ValueError(f"crop must be at most the {side} pixels that the generator makes; got {crop}")
        self._crop = crop
        self.style_size = style_size
        self.synthesis = Synthesis(style_size, base, channels, image_shape[0], clamp)
        self.mapping = Mapping(latent_size, style_size, mapping_layers, self.synthesis.num_ws, rate)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (n, C, H, W) in [0, 1] of latents (n, latent_size), without truncation."""
        return self.images(self.mapping(latents))

    def repeat(self, w: Tensor) -> Tensor:
        """Return styles (n, num_ws, style_size), the same for every layer, of w (n, style_size)."""
        return w[:, None].expand(-1, self.synthesis.num_ws, -1)

    def images(
        self, ws: Tensor, *, start_block: str | None = None, features: Features | None = None
    ) -> Tensor:
        """Return images (n, C, H, W) in [0, 1] of styles (n, num_ws, style_size); see :meth:`Synthesis.forward`."""
        rgb = self.synthesis(ws, start_block=start_block, features=features).rgb
        if self._crop is not None:
            first = (rgb.shape[2] - self._crop) // 2
            rgb = rgb[:, :, first : first + self._crop, first : first + self._crop]
        if rgb.shape[2:] != self.image_shape[1:]:
            rgb = F.interpolate(rgb, self.image_shape[1:], mode="bilinear", antialias=True)
        shown: Tensor = (rgb / 2 + 0.5).clamp(0, 1)
        return shown


def _filter(channels: int, x: Tensor) -> Tensor:
    """(channels, 1, 4, 4), of sum 4: three of four pixels are zeros before it is applied."""
    row = torch.tensor(FILTER, dtype=x.dtype, device=x.device)
    kernel = torch.outer(row, row)
    return (4 * kernel / kernel.sum()).expand(channels, 1, -1, -1)


def _smooth(x: Tensor) -> Tensor:
    """What a transposed convolution of stride 2 made, (n, c, 2 s + 1, 2 s + 1), smoothed to (n, c, 2 s, 2 s)."""
    return F.conv2d(x, _filter(x.shape[1], x), padding=1, groups=x.shape[1])


def _enlarge(x: Tensor) -> Tensor:
    """Images (n, c, s, s) at twice the side."""
    return F.conv_transpose2d(x, _filter(x.shape[1], x), stride=2, padding=1, groups=x.shape[1])
