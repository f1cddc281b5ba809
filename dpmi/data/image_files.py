"""Splits of image files: some classes are private, and images of the others are public."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dpmi.data.files import missing
from dpmi.data.images import renumbered, without
from dpmi.data.lazy import Images
from dpmi.data.open_image import open_image
from dpmi.data.split import Distance, ImageSet, Split
from dpmi.data.stored_images import Pixels, collected

Files = Mapping[str, Sequence[Path]]
"""The image files of each class, by the class's name."""

_Labelled = tuple[int, Path]


def split_files(
    name: str,
    private: Files,
    public: Files,
    *,
    size: int,
    test_share: float,
    public_images: int,
    generator: np.random.Generator,
    distance: Distance,
    citation: str,
    crop: int | None = None,
) -> Split:
    """Divide files into private train, private test and public, and read each part once, in colour.

    The test part has ``ceil(test_share * n)`` of a private class's n images. Collections from the web contain
    duplicates: a test image that equals a training image is removed, and so is a public image that equals a private
    image.

    Args:
        name: name of the data set.
        private: two or more files for each class.
        public: any number of files for each class.
        size: height and width of the images after fitting.
        test_share: between 0 and 1.
        public_images: number of public images to draw, 0 or more; all of them if there are fewer.
        generator: draws the test and the public images.
        distance: the MIA distance.
        citation: citation of the data set.
        crop: side, in pixels, of the central crop before fitting; None means no crop.

    Raises:
        ValueError: an option is out of range, a private class has one image, or a file is not an image.
        FileNotFoundError: a file does not exist.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1; got {test_share}")
    if public_images < 0:
        raise ValueError(f"public_images must be 0 or more; got {public_images}")
    train_files, test_files = hold_out(name, private, test_share, generator)
    public_files = _draw(public, public_images, generator)

    def read(files: Sequence[_Labelled]) -> tuple[Images, Tensor]:
        labels = torch.tensor([label for label, _ in files], dtype=torch.int64)
        return read_files([file for _, file in files], size=size, crop=crop, dataset=name), labels

    train, train_labels = read(train_files)
    test, test_labels = without(*read(test_files), train)
    images, classes = without(*read(public_files), train, test)
    public_labels, public_names = renumbered(classes, tuple(f"{name}/{each}" for each in public))
    return Split(
        name=name,
        train=ImageSet(train, train_labels),
        test=ImageSet(test, test_labels),
        public=images,
        class_names=tuple(private),
        distance=distance,
        citation=citation,
        public_labels=public_labels,
        public_class_names=public_names,
    )


def read_files(
    files: Sequence[Path],
    *,
    size: int | tuple[int, int],
    dataset: str,
    crop: int | None = None,
    mode: Literal["L", "RGB"] = "RGB",
) -> Images:
    """Read images, float32 ``(N, 1 or 3, H, W)`` in [0, 1]; many of them stay on the disk.

    The proportions are preserved: the image is cropped in the middle, then resized with a Lanczos filter.

    Args:
        files: the files.
        size: height and width, or one number for both.
        dataset: name of the data set, for the error.
        crop: side, in pixels, of the central crop before fitting; None means no crop.
        mode: grey or colour.

    Raises:
        ValueError: a file is corrupt or not an image.
        FileNotFoundError: a file does not exist.
        OSError: the images do not fit on the disk.
    """
    height, width = (size, size) if isinstance(size, int) else size

    def pixels(row: int) -> Pixels:
        whole = _read_file(files[row], crop=crop, mode=mode, dataset=dataset)
        fitted = ImageOps.fit(whole, (width, height), method=Image.Resampling.LANCZOS)
        return np.array(fitted).reshape(height, width, -1).transpose(2, 0, 1)

    return collected(len(files), (1 if mode == "L" else 3, height, width), pixels)


def hold_out(
    name: str, private: Files, share: float, generator: np.random.Generator
) -> tuple[list[_Labelled], list[_Labelled]]:
    """Divide each class's files into train and test; the label is the position of the class in ``private``."""
    train, test = list[_Labelled](), list[_Labelled]()
    for label, (class_name, files) in enumerate(private.items()):
        if len(files) < 2:
            raise ValueError(
                f"private class {class_name!r} of {name!r} must have at least 2 images, for train and for test; "
                f"it has only {files[0]}"
            )
        # Rounded first, because 0.1 * 70 is slightly above 7 in floating point, and its ceiling would be 8.
        held_out = min(math.ceil(round(share * len(files), 6)), len(files) - 1)
        order = generator.permutation(len(files))
        test += [(label, files[index]) for index in sorted(order[:held_out])]
        train += [(label, files[index]) for index in sorted(order[held_out:])]
    return train, test


def _draw(public: Files, count: int, generator: np.random.Generator) -> list[_Labelled]:
    """Draw ``count`` files and return them in the order of their classes."""
    files = [(label, file) for label, own in enumerate(public.values()) for file in own]
    if len(files) <= count:
        return files
    drawn = generator.choice(len(files), count, replace=False)
    return [files[index] for index in sorted(drawn)]


def _read_file(file: Path, *, crop: int | None, mode: Literal["L", "RGB"], dataset: str) -> Image.Image:
    try:
        square = open_image(file, mode)
    except FileNotFoundError:
        raise missing(file.parent, dataset=dataset, holds=file.name) from None
    if crop is not None:
        if min(square.size) < crop:
            raise ValueError(
                f"{file} must be at least {crop}x{crop} pixels, the size of the central crop; got {square.size}"
            )
        left, top = (square.width - crop) // 2, (square.height - crop) // 2
        square = square.crop((left, top, left + crop, top + crop))
    return square
