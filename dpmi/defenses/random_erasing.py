"""Random erasing ([TN25]): a part of every private image is erased in training, so the model never sees it whole.

[TN25] V.-H. Tran, N.-B. Nguyen, S. T. Mai, H. Vandierendonck, I. Assent, A. Kot, N.-M. Cheung, "Random Erasing vs.
Model Inversion: A Promising Defense or a False Hope?", TMLR 2025 (MIDRE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from accountants import checks
from dpmi.data import ImageSet

from .base import Defense

Fill = Literal["mean", "random"]

#: Mean pixels of ImageNet, red, green and blue in [0, 1]: public constants, independent of private data.
_MEANS = {1: (0.459,), 3: (0.485, 0.456, 0.406)}  # one channel: their luminance


@dataclass(frozen=True, kw_only=True)
class RandomErasing(Defense):
    """Erases one rectangle of every image in every update, at a random place.

    The rectangle's share of the image is uniform in [min_area, max_area]. Its aspect ratio is that of the image, so it
    fits at every size; on square images it is a square, as in [TN25]. torchvision's RandomErasing cannot be used,
    because it erases the same rectangle in all images of a batch.

    >>> images = torch.ones(4, 1, 8, 8)
    >>> erased = RandomErasing(max_area=0.5, min_area=0.5).augment(images)
    >>> (erased < 1).flatten(1).sum(1).tolist()  # about half of the 64 pixels
    [36, 36, 36, 36]

    Args:
        max_area: largest share of the image, in (0, 1). Published values: 0.4 and 0.8 for FaceScrub.
        min_area: smallest share of the image, in [0, max_area].
        fill: "mean", the mean pixel of ImageNet as in [TN25], or "random", every value uniform in [0, 1].
    """

    name: ClassVar[str] = "random-erasing"
    strength_field: ClassVar[str | None] = "max_area"
    strength_range: ClassVar[tuple[float, float] | None] = (0.1, 0.9)

    max_area: float
    min_area: float = 0.1  # this and the next as in [TN25]
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        if not 0 < checks.real("max_area", self.max_area) < 1:
            raise ValueError(f"max_area must be in (0, 1), got {self.max_area}")
        if not 0 <= checks.real("min_area", self.min_area) <= self.max_area:
            raise ValueError(f"min_area must be in [0, max_area] = [0, {self.max_area}], got {self.min_area}")
        if self.fill not in get_args(Fill):
            raise ValueError(f"fill must be {' or '.join(map(repr, get_args(Fill)))}, got {self.fill!r}")

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse images for which there is no mean pixel."""
        channels = data.images.shape[1]
        if self.fill == "mean" and channels not in _MEANS:
            raise ValueError(
                f"fill 'mean' is the mean pixel of ImageNet, with 1 or 3 channels, not {channels}; use 'random'"
            )

    def augment(self, images: Tensor) -> Tensor:
        """Return copies of the images with one rectangle erased in each."""
        n, channels, *sides = images.shape
        area = torch.empty(n, device=images.device).uniform_(self.min_area, self.max_area)
        rows, columns = (self._inside(area, side) for side in sides)
        erased = rows[:, None, :, None] & columns[:, None, None, :]
        if self.fill == "random":
            return torch.where(erased, torch.rand_like(images), images)
        mean = torch.tensor(_MEANS[channels], dtype=images.dtype, device=images.device)
        return torch.where(erased, mean[:, None, None], images)

    @staticmethod
    def _inside(area: Tensor, side: int) -> Tensor:
        """Return which of ``side`` rows are erased, bool (n, side): a random interval with a share of sqrt(area)."""
        length = (area.sqrt() * side).round().clamp(max=side - 1)  # never the whole image
        first = (torch.rand_like(area) * (side - length + 1)).floor()
        position = torch.arange(side, device=area.device)
        return (first[:, None] <= position) & (position < (first + length)[:, None])
