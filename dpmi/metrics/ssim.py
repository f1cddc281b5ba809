"""Structural similarity of many pairs of images at once [Wang et al. 2004].

The window of SSIM is separable, so a blurred image is A @ x @ B with two band matrices, and what concerns one
image alone is computed once per image, not once per pair. This is 20 to 40 times as fast as a convolution per pair,
and gives what torchmetrics gives (window 11x11 Gaussian, sigma 1.5, reflected border, data range 1): a test
pins the two.

Images lie row by row: the first row of every image, then the second of every image. Each of the two products is then
one large product of matrices, whichever the axis, and a block of rows or columns is where it is, without a copy.
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

#: Pairs times pixels that are held at a time: 1.6 MiB per buffer. Less is more calls, more leaves the cache; 95 faces
#: of 70 x 60.
_CHUNK = 400_000

#: Rows or columns that are averaged by one product. A band is mostly zeros: for 70 of them, three blocks that leave out
#: what none of theirs sees take two thirds of the time of one product, and six blocks as long.
_BLOCK = 24


@dataclass(frozen=True, eq=False)
class LocalMoments:
    """Images with their local means and variances, all of shape (H, n, C, W): row by row."""

    images: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, images: Tensor) -> LocalMoments:
        """Compute them.

        Args:
            images: (n, C, H, W).

        Raises:
            ValueError: images smaller than the window.
        """
        count, channels, height, width = images.shape
        # Blurred together: fewer and larger products.
        powers = torch.empty(height, 2, count, channels, width, device=images.device)
        by_row, squares = powers.unbind(dim=1)
        torch.mul(by_row.copy_(images.permute(2, 0, 1, 3)), by_row, out=squares)
        mean, variance = blur(powers).unbind(dim=1)
        return cls(by_row, mean, variance.addcmul_(mean, mean, value=-1).clamp_(min=0))

    def __getitem__(self, rows: slice) -> LocalMoments:
        """Select images."""
        return LocalMoments(self.images[:, rows], self.mean[:, rows], self.variance[:, rows])

    def __len__(self) -> int:
        """Return n."""
        return self.images.shape[1]


def ssim_pairs(first: LocalMoments, second: LocalMoments) -> Tensor:
    """Return the SSIM (n,) of each image of ``first`` with its partner; one side may be a single image."""
    count = max(len(first), len(second))
    step = max(1, _CHUNK // first.images[:, 0].numel())
    parts = []
    for begin in range(0, count, step):
        rows = slice(begin, begin + step)
        parts.append(
            _ssim(first if len(first) == 1 else first[rows], second if len(second) == 1 else second[rows])
        )
    return torch.cat(parts)


def pairs_at_once(images: Tensor) -> int:
    """Return of how many pairs of such images (n, C, H, W) the buffers stay in the cache."""
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
    return above.div_(below).mean(dim=(0, 2, 3))


def blur(by_row: Tensor) -> Tensor:
    """Return images (H, ..., W), row by row, averaged over the window, reflected at the border.

    Raises:
        ValueError: images smaller than the window.
    """
    height, width = by_row.shape[0], by_row.shape[-1]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"SSIM has a window of {WINDOW}x{WINDOW} pixels; images of {height}x{width} are smaller: "
            f"use kind='euclidean'"
        )
    lines = by_row.reshape(-1, width)
    half = torch.empty_like(lines)
    for block, seen, band in _bands(width, by_row.device):
        torch.mm(lines[:, seen], band.T, out=half[:, block])
    columns = half.view(height, -1)
    blurred = torch.empty_like(columns)
    for block, seen, band in _bands(height, by_row.device):
        torch.mm(band, columns[seen], out=blurred[block])
    return blurred.view(by_row.shape)


@cache
def _bands(side: int, device: torch.device) -> tuple[tuple[slice, slice, Tensor], ...]:
    """For each block of the matrix that averages along one axis: its rows, the columns that they see, and that part."""
    matrix = _band(side).to(device)
    starts = range(0, side, -(-side // max(1, round(side / _BLOCK))))
    ends = [*starts[1:], side]
    reach = WINDOW // 2
    found = []
    for start, end in zip(starts, ends, strict=True):
        seen = slice(max(0, start - reach), min(side, end + reach))
        found.append((slice(start, end), seen, matrix[start:end, seen].contiguous()))
    return tuple(found)


def _band(side: int) -> Tensor:
    """The matrix (side, side) that averages along one axis: the impulse responses of the window."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-((offsets / SIGMA) ** 2) / 2)
    impulses = F.pad(torch.eye(side, dtype=torch.float64), (WINDOW // 2, WINDOW // 2), mode="reflect")
    return F.conv1d(impulses[:, None], (window / window.sum())[None, None])[:, 0].T.float()
