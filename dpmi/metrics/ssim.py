"""Structural similarity of many pairs of images at once [Wang et al. 2004].

The window of SSIM is separable, so a blurred image is A @ x @ B with two band matrices, and what concerns one
image alone is computed once per image, not once per pair. This is 20 times as fast as a convolution per pair,
and gives what torchmetrics gives (window 11x11 Gaussian, sigma 1.5, reflected border, data range 1): a test
pins the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2

#: Pairs times pixels that are held at a time: 512 KiB per buffer, so that all of them stay in the cache.
_CHUNK = 2**17


@dataclass(frozen=True, eq=False)
class LocalMoments:
    """Images (n, C, H, W) with their local means and variances, all of that shape."""

    images: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, images: Tensor) -> LocalMoments:
        """Compute them.

        Raises:
            ValueError: images smaller than the window.
        """
        images = images.float()
        mean = blur(images)
        variance = blur(images.square()).addcmul_(mean, mean, value=-1)
        return cls(images, mean, variance.clamp_(min=0))

    def __getitem__(self, rows: Tensor | slice) -> LocalMoments:
        """Select images."""
        return LocalMoments(self.images[rows], self.mean[rows], self.variance[rows])

    def __len__(self) -> int:
        """Return n."""
        return len(self.images)


def ssim_pairs(first: LocalMoments, second: LocalMoments) -> Tensor:
    """Return the SSIM (n,) of each image of ``first`` with its partner; one side may be a single image."""
    count = max(len(first), len(second))
    step = pairs_at_once(first.images)
    parts = []
    for begin in range(0, count, step):
        rows = slice(begin, begin + step)
        parts.append(
            _ssim(first if len(first) == 1 else first[rows], second if len(second) == 1 else second[rows])
        )
    return torch.cat(parts)


def pairs_at_once(images: Tensor) -> int:
    """Return of how many pairs of such images the buffers stay in the cache."""
    return max(1, _CHUNK // images[0].numel())


def _ssim(first: LocalMoments, second: LocalMoments) -> Tensor:
    c1, c2 = first.mean.new_tensor(C1), first.mean.new_tensor(C2)
    # Few passes over the pairs: factors go to the first side, which may be one image, and C2 through the average.
    twice = 2 * first.mean
    covariance = blur(torch.addcmul(c2, 2 * first.images, second.images))
    covariance.addcmul_(twice, second.mean, value=-1)
    above = torch.addcmul(c1, twice, second.mean).mul_(covariance)
    below = torch.addcmul(first.mean.square() + C1, second.mean, second.mean)
    below.mul_((first.variance + C2) + second.variance)
    return above.div_(below).flatten(1).mean(dim=1)


def blur(images: Tensor) -> Tensor:
    """Return images (n, C, H, W) averaged over the window, reflected at the border.

    Raises:
        ValueError: images smaller than the window.
    """
    height, width = images.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"SSIM has a window of {WINDOW}x{WINDOW} pixels; images of {height}x{width} are smaller: "
            f"use kind='euclidean'"
        )
    rows, columns = _band(height, images.device), _band(width, images.device)
    blurred: Tensor = rows @ images @ columns.T
    return blurred


@cache
def _band(side: int, device: torch.device) -> Tensor:
    """The matrix (side, side) that averages along one axis: the impulse responses of the window."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-((offsets / SIGMA) ** 2) / 2)
    impulses = F.pad(torch.eye(side, dtype=torch.float64), (WINDOW // 2, WINDOW // 2), mode="reflect")
    return F.conv1d(impulses[:, None], (window / window.sum())[None, None])[:, 0].T.float().to(device)
