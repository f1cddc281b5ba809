"""The generator of StyleGAN2-ADA, of any size.

Architecture and parameter names are those of the published generator: skip connections to RGB, weight demodulation,
equalized learning rates, filter [1, 3, 3, 1]. With the published weights it computes the same function, in float32
[T. Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020; "Training generative adversarial
networks with limited data", NeurIPS 2020].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..base import Generator, ImageShape
from .connected import FullyConnected, activation

#: Bound of activations and the mapping network's share of the learning rate, as published.
CLAMP = 256.0
MAPPING_RATE = 0.01

#: The binomial filter that smooths enlarged images.
FILTER = (1.0, 3.0, 3.0, 1.0)

_EPSILON = 1e-8

#: Pixels of the last block that are computed at a time: 16 images of 1024x1024, or 256 of 256x256.
_PIXELS = 2**24


class Features(NamedTuple):
    """The values passed between the blocks of the synthesis network.

    Args:
        hidden: (n, channels, side, side); None before the first block.
        rgb: (n, C, side, side), the accumulated image, about [-1, 1]; None before the first block.
    """

    hidden: Tensor | None = None
    rgb: Tensor | None = None


class Mapping(nn.Module):
    """Maps latents z to styles w, optionally truncated towards their mean."""

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
        """Return styles (n, num_ws, style_size), the same for every layer except for the truncation.

        Args:
            latents: (n, latent_size).
            psi: truncation: factor on the distance from the mean style; below 1 images are more typical and more alike.
            cutoff: number of truncated layers; None truncates all.
        """
        w = latents * (latents.square().mean(dim=1, keepdim=True) + _EPSILON).rsqrt()
        for number in range(self._layers):
            w = self.get_submodule(f"fc{number}")(w)
        truncated = self.w_avg.lerp(w.to(self.w_avg), psi)
        cutoff = self._styles if cutoff is None else min(cutoff, self._styles)
        return torch.stack([truncated] * cutoff + [w] * (self._styles - cutoff), dim=1)


class _StyledConvolution(nn.Module):
    """A convolution with input channels scaled by a style and outputs normalized to the same scale.

    The added noise is constant, as in the published generator with constant noise.
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
        # Scaling input and output channels equals one kernel per image, but needs one convolution for all images.
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
    """Makes images from styles, block by block; a block is named by its side, e.g. "b4" or "b32".

    Args:
        style_size: length of w.
        base: side of the first block.
        channels: channels of each block's hidden features, coarse to fine.
        colours: C of the images.
        clamp: bound of activations; None means no bound.
    """

    def __init__(
        self, style_size: int, base: int, channels: Sequence[int], colours: int, clamp: float | None
    ) -> None:
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
        """Return the output of the last block; its ``rgb`` is the image, about [-1, 1].

        Args:
            ws: (n, num_ws, style_size).
            start_block: first block to run, whose input is ``features``; None runs from the first block.
            features: input of ``start_block``, from a call that ended there.
            end_block: stop before this block and return its input; None runs to the end.
        """
        first = 0 if start_block is None else self.blocks.index(start_block)
        last = len(self.blocks) if end_block is None else self.blocks.index(end_block)
        features = features or Features()
        for number in range(first, last):
            # A block's last style serves its RGB layer and the first convolution of the next block.
            begin = max(0, 2 * number - 1)
            block = self.get_submodule(self.blocks[number])
            features = block(features, ws[:, begin : 2 * number + 2])
        return features


class StyleGenerator(Generator):
    """Latents z -> :attr:`mapping` -> styles w -> :attr:`synthesis` -> images.

    Args:
        image_shape: (C, H, W) of the returned images.
        latent_size: length of z.
        style_size: length of w.
        mapping_layers: number of layers from z to w.
        channels: channels of each block's hidden features, coarse to fine.
        base: side of the first block; each further block doubles it.
        rate: the mapping network's share of the learning rate.
        clamp: bound of activations; None means no bound.
        crop: side, in pixels, of the central crop of images before they are resized to ``image_shape``; None means no
            crop.

    Raises:
        ValueError: the crop is larger than the images of the last block.

    >>> generator = StyleGenerator((1, 16, 16), latent_size=8, style_size=8, mapping_layers=2, channels=[16, 8, 4])
    >>> styles = generator.mapping(torch.randn(3, 8))
    >>> styles.shape, generator.images(styles).shape  # one style for each layer
    (torch.Size([3, 6, 8]), torch.Size([3, 1, 16, 16]))
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
        super().__init__(latent_size, image_shape)
        side = base * 2 ** (len(channels) - 1)
        if crop is not None and not 1 <= crop <= side:
            raise ValueError(f"crop must be at most the {side} pixels that the generator makes; got {crop}")
        self._crop = crop
        self._side = side
        self.style_size = style_size
        self.synthesis = Synthesis(style_size, base, channels, image_shape[0], clamp)
        self.mapping = Mapping(latent_size, style_size, mapping_layers, self.synthesis.num_ws, rate)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (n, C, H, W) in [0, 1] for latents (n, latent_size), without truncation."""
        return self.images(self.mapping(latents))

    def repeat(self, w: Tensor) -> Tensor:
        """Return styles (n, num_ws, style_size) that repeat w (n, style_size) for every layer."""
        return w[:, None].expand(-1, self.synthesis.num_ws, -1)

    def images(
        self, ws: Tensor, *, start_block: str | None = None, features: Features | None = None
    ) -> Tensor:
        """Return images (n, C, H, W) in [0, 1] for styles (n, num_ws, style_size); see :meth:`Synthesis.forward`.

        The memory is that of 16 images of 1024x1024: if there are more, the backward pass computes the blocks again.
        """
        most = max(1, _PIXELS // self._side**2)
        if len(ws) <= most:
            return self._images(ws, start_block, features)
        found = []
        for first in range(0, len(ws), most):
            rows = slice(first, first + most)
            own = None if features is None else Features(*(x if x is None else x[rows] for x in features))
            found.append(checkpoint(self._images, ws[rows], start_block, own, use_reentrant=False))
        return torch.cat(found)

    def _images(self, ws: Tensor, start_block: str | None, features: Features | None) -> Tensor:
        rgb = self.synthesis(ws, start_block=start_block, features=features).rgb
        if self._crop is not None:
            first = (rgb.shape[2] - self._crop) // 2
            rgb = rgb[:, :, first : first + self._crop, first : first + self._crop]
        if rgb.shape[2:] != self.image_shape[1:]:
            rgb = F.interpolate(rgb, self.image_shape[1:], mode="bilinear", antialias=True)
        shown: Tensor = (rgb / 2 + 0.5).clamp(0, 1)
        return shown


def _filter(channels: int, x: Tensor) -> Tensor:
    """Return the filter (channels, 1, 4, 4); its sum is 4, because three of four input pixels are zero."""
    row = torch.tensor(FILTER, dtype=x.dtype, device=x.device)
    kernel = torch.outer(row, row)
    return (4 * kernel / kernel.sum()).expand(channels, 1, -1, -1)


def _smooth(x: Tensor) -> Tensor:
    """Smooth the output (n, c, 2 s + 1, 2 s + 1) of a transposed convolution of stride 2 to (n, c, 2 s, 2 s)."""
    return F.conv2d(x, _filter(x.shape[1], x), padding=1, groups=x.shape[1])


def _enlarge(x: Tensor) -> Tensor:
    """Return images (n, c, s, s) with twice the side."""
    return F.conv_transpose2d(x, _filter(x.shape[1], x), stride=2, padding=1, groups=x.shape[1])
