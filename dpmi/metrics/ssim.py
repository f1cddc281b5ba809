"""Structural similarity of many pairs of images at once [Wang et al. 2004].

The window of SSIM is separable, so an image is blurred by two convolutions of 11 taps, and what concerns one image
alone is computed once per image, not once per pair. The tensors here have the shape (n, C, H, W), but in memory the
images change fastest: a convolution by channel, which treats each image as a channel, then runs over many images
in one vector operation. This gives what torchmetrics gives (window 11x11 Gaussian, sigma 1.5, reflected border,
data range 1): a test pins the two.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2

#: Pairs times pixels that are held at a time: 1 MiB per buffer, so that most of them stay in the cache.
_CHUNK = 2**18

#: Float32 numbers in a vector register; pairs are taken in multiples of so many.
_LANES = 16


@dataclass(frozen=True, eq=False)
class LocalMoments:
    """Images (n, C, H, W), reflected at the border for the window, with local means and variances of that shape."""

    padded: Tensor
    """(n, C, H + 10, W + 10)."""
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, images: Tensor) -> LocalMoments:
        """Compute them.

        Raises:
            ValueError: images smaller than the window.
        """
        height, width = images.shape[-2:]
        if min(height, width) < WINDOW:
            raise ValueError(
                f"SSIM has a window of {WINDOW}x{WINDOW} pixels; images of {height}x{width} are smaller: "
                f"use kind='euclidean'"
            )
        by_channel = images.float().transpose(0, 1).contiguous(memory_format=torch.channels_last)
        padded = F.pad(by_channel, [WINDOW // 2] * 4, mode="reflect").transpose(0, 1)
        mean = _blurred(padded)
        variance = _blurred(padded.square()).addcmul_(mean, mean, value=-1)
        return cls(padded, mean, variance.clamp_(min=0))

    def __getitem__(self, rows: Tensor | slice) -> LocalMoments:
        """Select images."""
        return LocalMoments(self.padded[rows], self.mean[rows], self.variance[rows])

    def __len__(self) -> int:
        """Return n."""
        return len(self.padded)


def ssim_pairs(first: LocalMoments, second: LocalMoments) -> Tensor:
    """Return the SSIM (n,) of each image of ``first`` with its partner; one side may be a single image."""
    count = max(len(first), len(second))
    step = pairs_at_once(first.mean)
    parts = []
    for begin in range(0, count, step):
        rows = slice(begin, begin + step)
        parts.append(
            _ssim(first if len(first) == 1 else first[rows], second if len(second) == 1 else second[rows])
        )
    return torch.cat(parts)


def pairs_at_once(images: Tensor) -> int:
    """Return of how many pairs of such images the buffers stay in the cache."""
    return max(1, round(_CHUNK / images[0].numel() / _LANES)) * _LANES


def _ssim(first: LocalMoments, second: LocalMoments) -> Tensor:
    # No addcmul here: between one image and many it goes over single numbers, where products use vectors.
    luminance = (2 * first.mean) * second.mean
    contrast = _blurred((2 * first.padded) * second.padded).sub_(luminance).add_(C2)
    above = luminance.add_(C1).mul_(contrast)
    below = (first.mean.square() + C1) + second.mean.square()
    below.mul_((first.variance + C2) + second.variance)
    return above.div_(below).mean(dim=(1, 2, 3))


def _blurred(padded: Tensor) -> Tensor:
    """Average padded images (n, C, H + 10, W + 10) over the window: (n, C, H, W)."""
    count = len(padded)
    windows = _window(padded.device).repeat(count, 1, 1)
    # cuDNN would round to TF32, and where variances are small that is larger than they are.
    with torch.backends.cudnn.flags(enabled=False) if padded.is_cuda else nullcontext():
        along_columns = F.conv2d(padded.transpose(0, 1), windows[..., None], groups=count)
        return F.conv2d(along_columns, windows[:, :, None], groups=count).transpose(0, 1)


@cache
def _window(device: torch.device) -> Tensor:
    """The Gaussian (11,) that sums to 1."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-((offsets / SIGMA) ** 2) / 2)
    return (window / window.sum()).float().to(device)
