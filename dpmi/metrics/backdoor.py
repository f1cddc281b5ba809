"""Backdoor robustness: whether a classifier learns a trigger that was hidden in a few of its training images.

Triggers and shares are those of [CALoR] appendix F.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dpmi.data import ImageSet

from .accuracy import accuracy
from .intervals import Interval, share_interval

POISONED_SHARE = 0.01
"""Of all training images."""
TARGET = 0
"""The class that a trigger stands for."""
LARGEST_PATCH = 1 / 3
"""Of the shorter side: on an image of 8x8 the appendix's 9x9 patch would leave nothing of the digit."""


class Trigger(Protocol):
    """What marks an image."""

    def stamp(self, images: Tensor) -> Tensor:
        """Return marked copies of images (n, C, H, W) in [0, 1]."""


@dataclass(frozen=True)
class BadNets:
    """A checkerboard in the lower right corner (Gu, Dolan-Gavitt, Garg 2017).

    Args:
        side: of the patch in pixels; less on small images, see :data:`LARGEST_PATCH`.
    """

    side: int = 9

    def stamp(self, images: Tensor) -> Tensor:
        """Replace the corner; the outermost pixel is white.

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
    """A little of one Gaussian noise image in every pixel (Chen, Liu, Li, Lu, Song 2017).

    The noise is standard normal, about which the appendix says nothing, and the result is cut to [0, 1].

    Args:
        ratio: of the noise, in (0, 1).
        seed: of the noise.
    """

    ratio: float = 0.1
    seed: int = 0

    def stamp(self, images: Tensor) -> Tensor:
        """Blend the noise in."""
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        return images.lerp(noise.to(images).expand_as(images), self.ratio).clamp(0.0, 1.0)


TRIGGERS: dict[str, Trigger] = {"badnets": BadNets(), "blended": Blended()}


def poison(data: ImageSet, trigger: Trigger, *, seed: int) -> ImageSet:
    """Mark 1 % of the images, at least one, and label them as class 0; all are of other classes.

    Args:
        data: the training set; it is not changed.
        trigger: marks them.
        seed: of the choice.

    Raises:
        ValueError: there are not that many images of other classes.
    """
    others = (data.labels != TARGET).nonzero()[:, 0]
    count = max(1, round(POISONED_SHARE * len(data)))
    if len(others) < count:
        raise ValueError(
            f"data must have at least {count} images of classes other than {TARGET} to poison; got {len(others)}"
        )
    chosen = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:count]]
    images, labels = data.images.clone(), data.labels.clone()
    images[chosen] = trigger.stamp(images[chosen])
    labels[chosen] = TARGET
    return ImageSet(images, labels)


def backdoor_success(model: nn.Module, data: ImageSet, trigger: Trigger) -> Interval:
    """Return the share of marked images that the model takes for class 0, with a 95 % Clopper-Pearson interval.

    Only images of other classes count. The appendix counts all: there a model without a backdoor has a success of
    at least its share of class 0.

    Args:
        model: maps images (n, C, H, W) to logits (n, K).
        data: test images.
        trigger: marks them.

    Raises:
        ValueError: all images are of class 0, or the logits are not finite.
    """
    others = data.labels != TARGET
    if not bool(others.any()):
        raise ValueError(f"data must have images of classes other than {TARGET}; all {len(data)} are of it")
    marked = trigger.stamp(data.images[others])
    wanted = torch.full((len(marked),), TARGET)
    return share_interval(accuracy(model, marked, wanted), len(marked))
