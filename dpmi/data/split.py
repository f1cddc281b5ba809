"""The types of a loaded data set: private train and test images, and the attacker's public images.

>>> def unit_of(distance: Distance) -> str:
...     return {"euclidean": "pixels in [0, 1]", "ssim": "1 - SSIM"}[distance]
>>> from dpmi import data
>>> unit_of(data.load("digits").distance)
'pixels in [0, 1]'
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from dpmi.data.images import digests
from dpmi.data.lazy import Images, LazyImages, blocks, shape_of, taken

Distance = Literal["euclidean", "ssim"]
"""The MIA distance of a data set: Euclidean, or 1 - SSIM."""

#: Names in an error message.
_SHOWN = 3


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images, validated by the constructor.

    Args:
        images: float32 ``(N, C, H, W)`` in [0, 1], N at least 1. Those of a large data set from files stay on the disk
            and are no tensor, but :class:`~dpmi.data.Images`.
        labels: int64 ``(N,)``, the class of each image, 0 or more.
        units: int64 ``(N,)``, the unit of privacy of each image, such as its user or its subclass, 0 or more; None if
            unknown.

    Raises:
        ValueError: a shape, dtype, length or range is wrong, or a value is not finite.

    >>> ImageSet(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]))
    ImageSet(3 images of (1, 8, 8))
    """

    images: Images
    labels: Tensor
    units: Tensor | None = None

    def __post_init__(self) -> None:
        _check_images("images", self.images)
        if len(self.images) == 0:
            raise ValueError("images is empty; an ImageSet must contain at least one image")
        _check_labels("labels", self.labels, self.images)
        if self.units is not None:
            _check_labels("units", self.units, self.images)

    def __len__(self) -> int:
        return len(self.images)

    def cut(self, kept: Tensor) -> ImageSet:
        """Return the images at the True entries of bool ``(N,)``, with their labels and units.

        Raises:
            ValueError: no entry is True.
        """
        units = None if self.units is None else self.units[kept]
        return ImageSet(taken(self.images, kept), self.labels[kept], units)

    def rows(self, chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the chosen images and their labels on a device; ``chosen`` int64 (n,)."""
        return self.images[chosen].to(device), self.labels[chosen].to(device)

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} images of {tuple(self.images.shape[1:])})"


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A data set for the study of attacks.

    The three parts are disjoint: no image, compared pixel by pixel, is in two of them. If the public images have
    classes, the private and the public classes are disjoint by identity, too: a person or a digit has the same name,
    such as ``att-faces/s1`` or ``mnist/3``, in every data set.

    Args:
        name: name of the data set for :func:`dpmi.data.load`.
        train: the private images that train the target.
        test: held-out images of the same classes, for accuracy.
        public: the attacker's public images, float32 ``(M, C, H, W)`` in [0, 1]; M may be 0. Those of a large data set
            from files stay on the disk, as the images of ``train`` and ``test``.
        class_names: one name per class; label k is ``class_names[k]``.
        distance: the MIA distance for this data set: ``euclidean`` (digits, objects) or ``ssim`` (faces).
        citation: authors and publication of the images.
        public_labels: int64 ``(M,)``, the classes of the public images, numbered from 0 independently of the private
            classes; None if they are unknown.
        public_class_names: one identity per public class, such as ``mnist/7``; required with ``public_labels``.
        collection: the collection of the private classes if it is not ``name``: ``mnist`` for a data set with some of
            MNIST's digits.

    Raises:
        ValueError: the images have different shapes, a label has no name, the distance is unknown, an image is in two
            parts, or a class is both private and public. An attack must not know the images that it reconstructs.

    >>> train = ImageSet(torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]))
    >>> test = ImageSet(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    >>> Split(
    ...     "mine", train, test, torch.rand(3, 1, 8, 8), class_names=("cats", "dogs"), distance="euclidean",
    ...     citation="mine, unpublished")
    Split('mine', train=4, test=2, public=3, classes=2, image_shape=(1, 8, 8))
    """

    name: str
    train: ImageSet
    test: ImageSet
    public: Images
    class_names: tuple[str, ...]
    distance: Distance
    citation: str
    public_labels: Tensor | None = None
    public_class_names: tuple[str, ...] | None = None
    collection: str | None = None

    def __post_init__(self) -> None:
        names = self.class_names
        if not isinstance(names, tuple) or not all(isinstance(each, str) for each in (self.name, *names)):
            raise ValueError(
                f"name must be a text and class_names a tuple of texts; got {self.name!r} and {names!r}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"class_names of {self.name!r} must be different; got {names!r}")
        _check_images("public", self.public)
        for part, images in (("test", self.test.images), ("public", self.public)):
            if images.shape[1:] != self.train.images.shape[1:]:
                raise ValueError(
                    f"{part} images of {self.name!r} have shape {tuple(images.shape[1:])}, "
                    f"train images {self.image_shape}: resize them to one shape"
                )
        largest = max(int(self.train.labels.max()), int(self.test.labels.max()))
        if largest >= self.num_classes:
            raise ValueError(f"label {largest} of {self.name!r} has no name: {self.num_classes} class names")
        if self.distance not in get_args(Distance):
            raise ValueError(f"distance must be one of {get_args(Distance)}; got {self.distance!r}")
        self._check_public_classes()
        train, test = list(digests(self.train.images)), list(digests(self.test.images))
        public = set(digests(self.public))
        _check_disjoint(self.name, "train", train, "the attacker's public images", public)
        _check_disjoint(self.name, "test", test, "the attacker's public images", public)
        _check_disjoint(self.name, "test", test, "the train images", set(train))

    def _check_public_classes(self) -> None:
        if (self.public_labels is None) != (self.public_class_names is None):
            raise ValueError(
                f"public_labels and public_class_names of {self.name!r} must be given together: "
                "each public class needs a name"
            )
        if self.public_labels is None or self.public_class_names is None:
            return
        _check_labels("public_labels", self.public_labels, self.public)
        if len(self.public) and int(self.public_labels.max()) >= len(self.public_class_names):
            raise ValueError(
                f"public label {int(self.public_labels.max())} of {self.name!r} has no name: "
                f"{len(self.public_class_names)} public class names"
            )
        shared = sorted(set(self.identities) & set(self.public_class_names))
        if shared:
            first = ", ".join(shared[:_SHOWN]) + (
                f" and {more} more" if (more := len(shared) - _SHOWN) > 0 else ""
            )
            raise ValueError(
                f"{first} of {self.name!r} must not be both private and public; "
                "remove the class from one of the two"
            )

    @property
    def identities(self) -> tuple[str, ...]:
        """The name of each private class that is common to all data sets: ``collection/class name``."""
        return tuple(f"{self.collection or self.name}/{name}" for name in self.class_names)

    @property
    def labelled_public(self) -> ImageSet | None:
        """The public images with their classes; None if there are no images or the classes are unknown."""
        if self.public_labels is None or len(self.public) == 0:
            return None
        return ImageSet(self.public, self.public_labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images, labels, units and class names, independent of the files they were read from."""
        found = hashlib.sha256(repr((self.class_names, self.distance, self.public_class_names)).encode())
        train, test = self.train, self.test
        parts = (train.images, train.labels, test.images, test.labels, self.public, self.public_labels)

        def add(part: Images) -> None:
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            for block in blocks(part):
                found.update(block.detach().cpu().contiguous().numpy().data)

        for part in parts:
            if part is None:
                found.update(b"none")
            else:
                add(part)
        # Unknown units add nothing, so the digest of a data set without units is that of earlier versions.
        for name, units in (("train", train.units), ("test", test.units)):
            if units is not None:
                found.update(f"units of {name}".encode())
                add(units)
        return found.hexdigest()

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of every image, train, test and public."""
        return shape_of(self.train.images)

    def __repr__(self) -> str:
        return (
            f"Split({self.name!r}, train={len(self.train)}, test={len(self.test)}, "
            f"public={len(self.public)}, classes={self.num_classes}, image_shape={self.image_shape})"
        )


def _check_images(argument: str, images: Images) -> None:
    if images.dtype != torch.float32 or len(images.shape) != 4:
        raise ValueError(
            f"{argument} must be float32 of shape (N, C, H, W); "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if images.shape.numel() == 0 or isinstance(images, LazyImages):  # these are in [0, 1]
        return
    extremes = [torch.stack(torch.aminmax(block)) for block in blocks(images)]
    low, high = (float(bound) for bound in torch.aminmax(torch.stack(extremes)))
    # This form also rejects NaN, which aminmax propagates.
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"{argument} must be finite and in [0, 1]; values run from {low:g} to {high:g}")


def _check_labels(argument: str, labels: Tensor, images: Images) -> None:
    if labels.dtype != torch.int64 or tuple(labels.shape) != (len(images),):
        raise ValueError(
            f"{argument} must be int64 of shape ({len(images)},), one for each image; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"{argument} must be 0 or more; the smallest is {int(labels.min())}")


def _check_disjoint(name: str, part: str, own: Iterable[bytes], others: str, theirs: set[bytes]) -> None:
    shared = sum(digest in theirs for digest in own)
    if shared:
        raise ValueError(
            f"{shared} {part} images of {name!r} are also among {others}; remove them from one of the two"
        )
