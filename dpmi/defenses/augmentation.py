"""Random variants of training images, by the names of torchvision.transforms.v2.

Every image gets draws of its own: torchvision's transforms would give one draw to all images of a batch. No transform
sees two images, so a private training may use them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from dpmi.data import Images

#: Images on which a transform is tried before the training, each several times, because a transform is random.
_TRIES = 8

#: How far outside of [0, 1] a trial may be; resizing with a bicubic filter overshoots.
_OVERSHOOT = 0.25


@dataclass(frozen=True, init=False)
class Augmentation:
    """A transform of torchvision.transforms.v2 and its arguments.

    Args:
        name: name of the transform, such as "RandomHorizontalFlip".
        options: its arguments; lists count as tuples, and an interpolation is named by its value, such as "bicubic".

    Raises:
        ValueError: torchvision has no such transform, or it refuses an argument.

    >>> Augmentation("RandomResizedCrop", size=64, scale=[0.85, 1.0])
    Augmentation(name='RandomResizedCrop', options=(('scale', (0.85, 1.0)), ('size', 64)))
    """

    name: str
    options: tuple[tuple[str, Any], ...]

    def __init__(self, name: str, **options: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple(sorted((key, _fixed(own)) for key, own in options.items())))
        if nested := [key for key, own in self.options if not isinstance(own, Hashable)]:
            raise ValueError(f"augmentation {name}: {nested[0]} must be a number, a text or a list of these")
        self.build()

    def build(self) -> Any:
        """Return the transform, a callable on one image."""
        kind = getattr(v2, self.name, None) if self.name.isidentifier() else None
        if not (isinstance(kind, type) and issubclass(kind, v2.Transform) and kind is not v2.Transform):
            raise ValueError(
                f"augmentation must name transforms of torchvision.transforms.v2, such as RandomHorizontalFlip; got "
                f"{self.name!r}"
            )
        options = dict(self.options)
        try:
            if "interpolation" in options:
                options["interpolation"] = InterpolationMode(options["interpolation"])
            return kind(**options)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"augmentation {self.name}: {' '.join(str(error).split())}") from error


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels; every access draws a new variant of each image, in [0, 1].

    Args:
        images: float32 (N, C, H, W) in [0, 1].
        labels: int64 (N,).
        augmentation: the transforms, applied in this order.
    """

    def __init__(self, images: Images, labels: Tensor, augmentation: Sequence[Augmentation]) -> None:
        self._images, self._labels = images, labels
        self._transforms = [each.build() for each in augmentation]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int | list[int]) -> tuple[Tensor, Tensor]:
        """Return an image (C, H, W) and its label (), or images (n, C, H, W) and their labels (n,) for a list."""
        images = self._images[torch.as_tensor(index)]
        if isinstance(index, list):
            return torch.stack([self._variant(image) for image in images]), self._labels[index]
        return self._variant(images), self._labels[index]

    def _variant(self, image: Tensor) -> Tensor:
        for transform in self._transforms:
            image = transform(image)
        return image.clamp(0, 1)


def check_augmentation(augmentation: Sequence[Augmentation], image_shape: Sequence[int]) -> None:
    """Try the transforms on a black, a white and a random image.

    Raises:
        ValueError: a transform does not accept such an image, or returns something else than an image of this shape
            with values in [0, 1].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = tuple(image_shape)
        tried = [torch.zeros(shape), torch.ones(shape), torch.rand(shape)]
        for each in augmentation:
            transform = each.build()
            for _ in range(_TRIES):
                tried = [_tried(each.name, transform, image) for image in tried]


def _tried(name: str, transform: Any, image: Tensor) -> Tensor:
    try:
        found = transform(image)
    except Exception as error:  # transforms raise errors of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"augmentation {name} does not accept an image of {tuple(image.shape)}: {reason}"
        ) from error
    if not isinstance(found, Tensor) or found.dtype != image.dtype or found.shape != image.shape:
        what = (
            f"{found.dtype} of {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else f"a {type(found).__name__}"
        )
        raise ValueError(
            f"augmentation {name} must return images as the model gets them, {image.dtype} of {tuple(image.shape)}; "
            f"it returns {what}"
        )
    low, high = float(found.min()), float(found.max())
    if not -_OVERSHOOT <= low <= high <= 1 + _OVERSHOOT:
        raise ValueError(
            f"augmentation {name} must return values in [0, 1]; it returns {low:g} to {high:g}. The key normalize of a "
            "study is for a model that expects another range"
        )
    return found.clamp(0, 1)


def _fixed(value: Any) -> Any:
    return tuple(map(_fixed, value)) if isinstance(value, list | tuple) else value
