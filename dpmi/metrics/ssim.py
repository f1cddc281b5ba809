"""Structural similarity of many pairs of images at once [Wang et al. 2004].

The window of SSIM is separable, so an image is blurred by two convolutions of 11 taps. Moments of a single image are
computed once per image, not once per pair. For the blur, images are the last axis, (C, H, W, n): a depthwise
convolution, which treats each image as a channel, then processes many images in one vector operation. The results equal
those of torchmetrics (window 11x11 Gaussian, sigma 1.5, reflected border, data range 1); a test compares both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.data import Images
from dpmi.freed_memory import keep_freed_memory

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2

#: Number of values in one buffer: 3 MiB, so that the buffers of a chunk of images stay in the cache.
_CHUNK = 3 * 2**18

#: Number of float32 values in a vector register; chunks are multiples of this number of images.
_LANES = 16

#: Number of images that are compared with a chunk of the others at once.
_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class LocalMoments:
    """Images (n, C, H, W) with their means and variances under the window."""

    padded: Tensor
    """The images, (n, C, H + 10, W + 10), reflected at the border."""
    mean: Tensor
    """Local means, (n, C, H, W)."""
    variance: Tensor
    """Local variances, (n, C, H, W)."""

    @classmethod
    def of(cls, images: Tensor) -> LocalMoments:
        """Return the local moments of images (n, C, H, W).

        Raises:
            ValueError: the images are smaller than the window.
        """
        parts = []
        for some in torch.split(images, _at_once(images, fields=2)):
            padded = _padded(some)
            fields = torch.stack([padded, padded.square()]).permute(0, 2, 3, 4, 1).contiguous()
            mean, square = _blurred(fields).permute(0, 4, 1, 2, 3)
            parts.append((padded, mean, (square - mean.square()).clamp_(min=0)))
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.padded, self.mean, self.variance))

    def __getitem__(self, rows: Tensor | slice) -> LocalMoments:
        return LocalMoments(*(tensor[rows] for tensor in self))

    def __len__(self) -> int:
        return len(self.padded)


def most_similar(images: LocalMoments, others: Images, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest SSIM of each image with some others, and the index of the most similar one.

    A chunk of ``others`` bounds the memory.

    Args:
        images: the moments of R images.
        others: (N, C, H, W).
        among: int64 (n,), n at least 1, the indices of the others to compare.

    Returns:
        float32 (R,) and int64 (R,), indices of others.
    """
    best = torch.full((len(images),), -torch.inf)
    index = torch.zeros(len(images), dtype=torch.int64)
    for begin in range(0, len(images), _TOGETHER):
        mine = slice(begin, begin + _TOGETHER)
        some = images[mine]
        for rows in torch.split(among, _at_once(others, fields=2 + len(some))):
            high, where = _ssim((tensor[..., None] for tensor in some), others[rows]).max(dim=1)
            index[mine] = torch.where(high > best[mine], rows[where], index[mine])
            best[mine] = torch.maximum(high, best[mine])
    return best, index


def ssim_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Return the SSIM (n,) of each image of ``first``, (n, C, H, W), with the same row of ``second``.

    Raises:
        ValueError: the images are smaller than the window.
    """
    step = _at_once(first, fields=3)
    parts = []
    for some, others in zip(torch.split(first, step), torch.split(second, step), strict=True):
        moments = LocalMoments.of(some)
        parts.append(_ssim((tensor.movedim(0, -1)[None] for tensor in moments), others)[0])
    return torch.cat(parts)


def _ssim(first: Iterable[Tensor], images: Tensor) -> Tensor:
    """Return (R, n) for images (n, C, H, W) and moments of others, (R, C, H, W, 1) or (1, C, H, W, n) each."""
    first_padded, first_mean, first_variance = first
    padded = _padded(images).permute(1, 2, 3, 0)
    fields = padded.new_empty(2 + len(first_padded), *padded.shape)
    padded = fields[0].copy_(padded)
    torch.mul(padded, padded, out=fields[1])
    torch.mul(first_padded, padded, out=fields[2:])
    mean, variance, covariance = torch.split(_blurred(fields), [1, 1, len(first_padded)])
    # In place where possible, because loading new memory into the cache takes longer than the arithmetic. Each factor
    # of the numerator is half of SSIM's.
    of_means = first_mean * mean
    numerator = covariance.sub_(of_means).add_(C2 / 2).mul_(of_means.add_(C1 / 2))
    variance.sub_(mean.square_()).clamp_(min=0)
    factor = torch.add(first_mean.square() + C1, mean, out=of_means)
    numerator.div_(factor)
    numerator.div_(torch.add(first_variance + C2, variance, out=factor))
    return 4 * numerator.mean(dim=(1, 2, 3))


def _padded(images: Tensor) -> Tensor:
    """Return images (n, C, H, W), reflected at the border: float32 (n, C, H + 10, W + 10).

    Raises:
        ValueError: the images are smaller than the window.
    """
    height, width = images.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"SSIM has a window of {WINDOW}x{WINDOW} pixels; images of {height}x{width} are smaller: "
            f"use kind='euclidean'"
        )
    return F.pad(images.float(), [WINDOW // 2] * 4, mode="reflect")


def _blurred(fields: Tensor) -> Tensor:
    """Average fields (F, C, H + 10, W + 10, n) over the window: (F, C, H, W, n)."""
    keep_freed_memory()
    count = fields.shape[-1]
    windows = _windows(count, fields.device)
    by_image = fields.flatten(0, 1).permute(0, 3, 1, 2)
    # cuDNN would round to TF32, and the rounding error exceeds small variances.
    with torch.backends.cudnn.flags(enabled=False) if fields.is_cuda else nullcontext():
        along_columns = F.conv2d(by_image, windows[..., None], groups=count)
        blurred = F.conv2d(along_columns, windows[:, :, None], groups=count)
    return blurred.permute(0, 2, 3, 1).reshape(*fields.shape[:2], *blurred.shape[2:], count)


def _at_once(images: Images, *, fields: int) -> int:
    """Return the number of images in a chunk if this many fields of each image are blurred."""
    return max(1, round(_CHUNK / (fields * images.shape[1:].numel()) / _LANES)) * _LANES


@lru_cache(maxsize=8)
def _windows(count: int, device: torch.device) -> Tensor:
    """Return the Gaussian window with sum 1, repeated for each image: (count, 1, 11)."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-((offsets / SIGMA) ** 2) / 2)
    return (window / window.sum()).float().to(device).repeat(count, 1, 1)
