"""Public images from another collection, in place of those of a data set."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from dpmi.data.folder import folder_of, public_files
from dpmi.data.image_files import read_files
from dpmi.data.images import renumbered, without
from dpmi.data.lazy import Images, ImageShape, blocks, changed, joined, shape_of
from dpmi.data.split import Split

#: Images that are resized at once, to bound the memory.
_AT_ONCE = 1024


def with_public_folder(split: Split, folder: str, *, crop: int | None = None) -> Split:
    """Return the data set with the images of a folder as its public images, in the shape of the private ones.

    An image is cropped to their proportions and resized. Images that equal private ones are left out.

    Args:
        split: the data set.
        folder: a folder of images, as FFHQ is published; or with one subfolder for each class.
        crop: side of a central crop before resizing, in pixels; None for no crop.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there are no images in it, one is smaller than the crop, or a file is not an image.
    """
    if crop is not None and crop < 1:
        raise ValueError(f"crop must be at least 1, got {crop}")
    place = folder_of("public", folder)
    files, names = public_files(place)
    channels, height, width = split.image_shape
    images = read_files(
        [file for _, file in files],
        size=(height, width),
        dataset=place.name,
        crop=crop,
        mode="L" if channels == 1 else "RGB",
    )
    return _replaced(split, images, torch.tensor([label for label, _ in files]), names)


def with_public_of(split: Split, other: Split) -> Split:
    """Return the data set with the private images of another one, train and test, as its public images.

    They get the shape of the private images, grey or in colour; see :func:`shaped`. Images that equal private ones are
    left out.

    Args:
        split: the data set.
        other: the other data set; its own public images are ignored.

    Raises:
        ValueError: a class is in both.
    """
    images = reshaped(joined(other.train.images, other.test.images), split.image_shape)
    labels = torch.cat([other.train.labels, other.test.labels])
    return _replaced(split, images, labels, other.identities)


def reshaped(images: Images, image_shape: ImageShape) -> Images:
    """Return images in another shape (C, H, W), as by :func:`shaped`; those on the disk whenever they are read.

    Args:
        images: float32 (N, c, h, w) in [0, 1].
        image_shape: (C, H, W).
    """
    if shape_of(images) == tuple(image_shape):
        return images
    return changed(images, lambda some, _: shaped(some, image_shape), image_shape)


def shaped(images: Tensor, image_shape: ImageShape) -> Tensor:
    """Return images in another shape (C, H, W): resized (bilinear, antialias), and grey as the mean of the colours.

    Args:
        images: float32 (n, c, h, w) in [0, 1].
        image_shape: (C, H, W).

    >>> shaped(torch.tensor([[[[0.0]], [[0.5]], [[1.0]]]]), (1, 1, 2))
    tensor([[[[0.5000, 0.5000]]]])
    """
    channels, height, width = image_shape
    found = []
    for block in blocks(images, _AT_ONCE):
        some = block
        if some.shape[1] != channels:
            some = some.mean(1, keepdim=True) if channels == 1 else some.expand(-1, channels, -1, -1)
        if some.shape[2:] != (height, width):
            some = functional.interpolate(some, size=(height, width), mode="bilinear", antialias=True)
        found.append(some.clamp(0, 1))
    return torch.cat(found)


def _replaced(split: Split, images: Images, labels: Tensor, names: tuple[str, ...] | None) -> Split:
    images, labels = without(images, labels, split.train.images, split.test.images)
    if names is None:
        return dataclasses.replace(split, public=images, public_labels=None, public_class_names=None)
    labels, names = renumbered(labels, names)
    return dataclasses.replace(split, public=images, public_labels=labels, public_class_names=names)
