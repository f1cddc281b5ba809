"""What every data set is once it is loaded: private train and test images, and the attacker's public ones."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from dpmi.data.images import digests

Distance = Literal["euclidean", "ssim"]


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled images, checked once here and trusted everywhere else.

    Args:
        images: float32 ``(N, C, H, W)`` in [0, 1], N at least 1.
        labels: int64 ``(N,)``, the class of each image, 0 or more.

    Raises:
        ValueError: a wrong shape, dtype, length, range, or a value that is not finite.

    >>> ImageSet(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]))
    ImageSet(3 images of (1, 8, 8))
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Refuse what a model, an attack or a metric could only misread."""
        _check_images("images", self.images)
        if len(self.images) == 0:
            raise ValueError("images is empty: an ImageSet holds at least one image")
        _check_labels("labels", self.labels, self.images)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Show sizes, not pixels."""
        return f"ImageSet({len(self)} images of {tuple(self.images.shape[1:])})"


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A data set as the study of an attack needs it.

    The three parts are disjoint by content: no image, compared pixel by pixel, is in two of them. Where the
    public images have classes, the private and the public classes are disjoint by identity as well: a person
    or a digit goes by one name, such as ``att-faces/s1`` or ``mnist/3``, in every data set that shows it.

    Args:
        name: the name it is loaded by.
        train: the private images that train the target.
        test: held-out images of the same classes, for accuracy.
        public: the attacker's own images, float32 ``(M, C, H, W)`` in [0, 1]; M may be 0.
        class_names: one name per class; label k is ``class_names[k]``.
        distance: the MIA distance this set is judged by: ``euclidean`` (digits, objects) or ``ssim`` (faces).
        citation: who collected the images and where they are published.
        public_labels: int64 ``(M,)``, the classes of the public images, which are none of the private ones and
            numbered from 0 on their own; None where they are not known.
        public_class_names: one identity per public class, such as ``mnist/7``; given if public_labels is.
        collection: what the private classes are part of, where that is not ``name``: ``mnist`` for a data set
            that holds some of MNIST's digits.

    Raises:
        ValueError: images of different shapes, a label without a name, an unknown distance, an image that is
            in two parts, or a class that is both private and public: an attack must not see what it is to find.
    """

    name: str
    train: ImageSet
    test: ImageSet
    public: Tensor
    class_names: tuple[str, ...]
    distance: Distance
    citation: str
    public_labels: Tensor | None = None
    public_class_names: tuple[str, ...] | None = None
    collection: str | None = None

    def __post_init__(self) -> None:
        """Check what the three parts must agree on."""
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
                "each public class has a name"
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
            raise ValueError(
                f"{', '.join(shared)} of {self.name!r}: private and public at once; "
                "remove the class from one side"
            )

    @property
    def identities(self) -> tuple[str, ...]:
        """What each private class is called in every data set that shows it: ``collection/class name``."""
        return tuple(f"{self.collection or self.name}/{name}" for name in self.class_names)

    @property
    def labelled_public(self) -> ImageSet | None:
        """The public images with their classes; None where there are none or these are not known."""
        if self.public_labels is None or len(self.public) == 0:
            return None
        return ImageSet(self.public, self.public_labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images and labels, and of what the classes are called, wherever they were read from."""
        found = hashlib.sha256(repr((self.class_names, self.distance, self.public_class_names)).encode())
        train, test = self.train, self.test
        parts = (train.images, train.labels, test.images, test.labels, self.public, self.public_labels)
        for part in parts:
            if part is None:
                found.update(b"none")
            else:
                found.update(f"{part.dtype} {tuple(part.shape)}".encode())
                found.update(part.detach().cpu().contiguous().numpy().data)
        return found.hexdigest()

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of every image, train, test and public."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def __repr__(self) -> str:
        """Show sizes, not pixels."""
        return (
            f"Split({self.name!r}, train={len(self.train)}, test={len(self.test)}, "
            f"public={len(self.public)}, classes={self.num_classes}, image_shape={self.image_shape})"
        )


def _check_images(argument: str, images: Tensor) -> None:
    if images.dtype != torch.float32 or images.dim() != 4:
        raise ValueError(
            f"{argument} must be float32 of shape (N, C, H, W); "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if images.numel() == 0:
        return
    low, high = (float(bound) for bound in torch.aminmax(images))
    # Written so that NaN, which aminmax passes on, is refused too.
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"{argument} must be finite and in [0, 1]; values run from {low:g} to {high:g}")


def _check_labels(argument: str, labels: Tensor, images: Tensor) -> None:
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
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
            f"{shared} {part} images of {name!r} are also among {others}: remove them from one side"
        )
