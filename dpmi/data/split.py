"""What every data set is once it is loaded: private train and test images, and the attacker's public ones."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

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
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), one for each image; "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        if int(self.labels.min()) < 0:
            raise ValueError(f"labels must be 0 or more; the smallest is {int(self.labels.min())}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Show sizes, not pixels."""
        return f"ImageSet({len(self)} images of {tuple(self.images.shape[1:])})"


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A data set as the study of an attack needs it.

    Args:
        name: the name it is loaded by.
        train: the private images that train the target.
        test: held-out images of the same classes, for accuracy.
        public: the attacker's own images, float32 ``(M, C, H, W)`` in [0, 1], unlabelled; M may be 0.
        class_names: one name per class; label k is ``class_names[k]``.
        distance: the MIA distance this set is judged by: ``euclidean`` (digits, objects) or ``ssim`` (faces).
        citation: who collected the images and where they are published.

    Raises:
        ValueError: images of different shapes, a label without a name, an unknown distance, or a public image
            that is also in train or test (compared by content): an attack must not see what it is to find.
    """

    name: str
    train: ImageSet
    test: ImageSet
    public: Tensor
    class_names: tuple[str, ...]
    distance: Distance
    citation: str

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
        public = set(_digests(self.public))
        for part, private in (("train", self.train), ("test", self.test)):
            shared = sum(digest in public for digest in _digests(private.images))
            if shared:
                raise ValueError(
                    f"{shared} {part} images of {self.name!r} are also among the attacker's public images: "
                    "remove them from one side"
                )

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


def _digests(images: Tensor) -> Iterator[bytes]:
    """Return a digest of each image's pixels: equal exactly when the images are equal."""
    for pixels in images.detach().cpu().contiguous().flatten(1).numpy():
        yield hashlib.blake2b(pixels, digest_size=16).digest()
