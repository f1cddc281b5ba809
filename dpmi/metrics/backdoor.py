"""Backdoor robustness: whether a classifier learns a trigger that is hidden in a few of its training images.

Triggers and shares are those of [YQF25] appendix F.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dpmi.data import ImageSet
from dpmi.data.lazy import changed, taken

from .accuracy import accuracy
from .intervals import Interval, share_interval

POISONED_SHARE = 0.01
"""Share of the training images that get the trigger."""
TARGET = 0
"""The target class of the trigger."""
LARGEST_PATCH = 1 / 3
"""Maximum side of a patch, as a share of the image's shorter side; a 9x9 patch would cover an image of 8x8."""


class Trigger(Protocol):
    """A trigger of a backdoor."""

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (n, C, H, W) in [0, 1] with the trigger."""


@dataclass(frozen=True)
class BadNets:
    """A checkerboard in the lower right corner (Gu, Dolan-Gavitt, Garg 2017).

    Args:
        side: side of the patch in pixels; smaller on small images, see :data:`LARGEST_PATCH`.
    """

    side: int = 9

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies with the patch in the corner; the outermost pixel is white.

        >>> BadNets().stamp(torch.zeros(1, 1, 3, 6))[0, 0].tolist()[-1]
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        """
        side = min(self.side, max(1, int(min(images.shape[-2:]) * LARGEST_PATCH)))
        squares = torch.arange(side).flip(0)
        marked = images.clone()
        marked[..., -side:, -side:] = ((squares[:, None] + squares) % 2 == 0).to(images)
        return marked


@dataclass(frozen=True)
class Blended:
    """A small share of one Gaussian noise image, blended into every pixel (Chen, Liu, Li, Lu, Song 2017).

    The noise is standard normal, which the appendix does not specify, and the result is clipped to [0, 1].

    Args:
        ratio: share of the noise, in (0, 1).
        seed: seed of the noise.
    """

    ratio: float = 0.1
    seed: int = 0

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies with the noise blended in."""
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        return images.lerp(noise.to(images).expand_as(images), self.ratio).clamp(0.0, 1.0)


TRIGGERS: dict[str, Trigger] = {"badnets": BadNets(), "blended": Blended()}


def poison(data: ImageSet, trigger: Trigger, *, seed: int) -> ImageSet:
    """Add the trigger to 1 % of the images, at least one, all of classes other than 0, and label them as class 0.

    Args:
        data: the training set; it is not changed.
        trigger: the trigger.
        seed: seed of the selection of images.

    Raises:
        ValueError: there are not enough images of other classes.
    """
    others = (data.labels != TARGET).nonzero()[:, 0]
    count = max(1, round(POISONED_SHARE * len(data)))
    if len(others) < count:
        raise ValueError(
            f"data must have at least {count} images of classes other than {TARGET} to poison; got {len(others)}"
        )
    chosen = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:count]]
    marked = torch.zeros(len(data), dtype=torch.bool)
    marked[chosen] = True

    def stamped(images: Tensor, rows: Tensor) -> Tensor:
        own = marked[rows]
        images = images.clone()
        images[own] = trigger.stamp(images[own])
        return images

    return ImageSet(changed(data.images, stamped), torch.where(marked, TARGET, data.labels), data.units)


def backdoor_success(model: nn.Module, data: ImageSet, trigger: Trigger) -> Interval:
    """Return the share of images with the trigger that the model assigns to class 0, with a Clopper-Pearson interval.

    Only images of other classes count. The appendix counts all images, so a model without a backdoor has a success rate
    of about the share of class 0.

    Args:
        model: maps images (n, C, H, W) to logits (n, K).
        data: test images.
        trigger: the trigger.

    Raises:
        ValueError: all images are of class 0, or the logits are not finite.
    """
    others = data.labels != TARGET
    if not bool(others.any()):
        raise ValueError(
            f"data must have images of classes other than {TARGET}; all {len(data)} are of class {TARGET}"
        )
    marked = changed(taken(data.images, others), lambda images, _: trigger.stamp(images))
    wanted = torch.full((len(marked),), TARGET)
    return share_interval(accuracy(model, marked, wanted), len(marked))
