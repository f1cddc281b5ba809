"""Random views of an image: small transformations that do not change the class it shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor
from torchvision.transforms import v2

from dpmi.attacks.checks import require

Augmentation = Literal["none", "digits", "faces"]
View = Callable[[Tensor], Tensor]


def augmentation(name: Augmentation) -> View:
    """Return a differentiable random view of images (n, C, H, W), of the same shape.

    It draws from torch's default generator, once for the batch, as the published attacks do.

    Args:
        name: ``faces`` crops, rotates by up to 5 degrees, mirrors, and changes brightness and contrast by up to 20 %
            [YCZ23, section 4.1]; ``digits`` does the same without the mirror, because a mirrored digit is another
            sign; ``none`` returns the images unchanged.

    Raises:
        ValueError: the name is none of these.
    """
    _check(name)
    if name == "none":
        return lambda images: images
    return partial(_view, mirror=_KINDS[name])


def crops(
    name: Augmentation,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (1.0, 1.0),
    mirror: bool = True,
) -> View:
    """Return a view that crops images (n, C, H, W) randomly, resizes them to their shape and mirrors half of the time.

    Args:
        name: as for :func:`augmentation`; ``digits`` are never mirrored, ``none`` returns the images unchanged.
        scale: range of the share of the area that a crop keeps.
        ratio: range of the crop's aspect ratio (width to height) relative to the image's.
        mirror: whether ``faces`` are mirrored.

    Raises:
        ValueError: the name is none of these.
    """
    _check(name)
    if name == "none":
        return lambda images: images

    def view(images: Tensor) -> Tensor:
        found: Tensor = v2.RandomResizedCrop(images.shape[-2:], scale=scale, ratio=ratio, antialias=True)(
            images
        )
        return v2.RandomHorizontalFlip()(found) if mirror and _KINDS[name] else found

    return view


def _check(name: Augmentation) -> None:
    require("augmentation", name, name in _KINDS, f"one of {tuple(_KINDS)}")


#: Whether a mirror image shows the same class.
_KINDS = MappingProxyType({"none": False, "digits": False, "faces": True})


def _view(images: Tensor, *, mirror: bool) -> Tensor:
    changes: list[v2.Transform] = [
        v2.RandomResizedCrop(images.shape[-2:], scale=(0.8, 1.0), ratio=(1.0, 1.0), antialias=True),
        # A fill, even 0, is written in place and stops the gradient; without a fill the corners are 0 as well.
        v2.RandomRotation(5, interpolation=v2.InterpolationMode.BILINEAR, fill=None),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
    ]
    if mirror:
        changes.append(v2.RandomHorizontalFlip())
    view: Tensor = v2.Compose(changes)(images)
    return view
