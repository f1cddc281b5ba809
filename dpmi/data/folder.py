"""A folder of the user with one subfolder of images for each class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dpmi.data.image_files import hold_out, read_files
from dpmi.data.images import renumbered, without
from dpmi.data.lazy import Images
from dpmi.data.split import Distance, ImageSet, Split

SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
"""Those of torchvision's ImageFolder."""

LARGEST_SIDE = 4096
"""Of an image after resizing, in pixels."""

Size = int | tuple[int, int]
Found = TypeVar("Found")


def load_folder(
    *,
    folder: str,
    size: Size | None = None,
    test: float = 0.2,
    public: str | None = None,
    decoys: str | None = None,
    distance: Distance = "euclidean",
    seed: int = 0,
) -> Split:
    """Load the images of a folder; every class is private, and the public images come from another folder.

    Images are grey if all private ones are, else in colour. An image of another shape is cropped to the proportions and
    resized. Equal images are kept once: in the train part, else in the test part.

    Args:
        folder: a folder with one subfolder of images for each class, at least two.
        size: height and width, or one number for both, at most 4096; None if all images have one size.
        test: share of each class's images that test the model, rounded up, between 0 and 1.
        public: a folder of images that the attacker has; with subfolders, these are its classes. None for no images.
        decoys: a folder of further classes, one subfolder each, on which a given model was not trained; they follow the
            classes of ``folder``, and are for a study with linkage only.
        distance: the MIA distance, "euclidean" or "ssim" (faces).
        seed: seed of the choice of the test images.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: an option is out of range, there are fewer than two classes, a class has fewer than two images, the
            images have several sizes and none is given, or a file is not an image.
    """
    if not 0 < test < 1:
        raise ValueError(f"test must be between 0 and 1; got {test}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more; got {seed}")
    root = folder_of("folder", folder)
    classes = class_files(root)
    if len(classes) < 2:
        raise ValueError(
            f"folder {root} must have a subfolder of images for each class, at least two; it has {len(classes)}"
        )
    if decoys is not None:
        further = class_files(folder_of("decoys", decoys))
        if not further or (twice := sorted(set(classes) & set(further))):
            reason = f"{twice[0]!r} is also a class of {root}" if further else "it has none"
            raise ValueError(f"decoys {decoys} must have subfolders of other classes, but {reason}")
        classes |= further
    files = [file for own in classes.values() for file in own]
    shape, grey = _shape(size, files), {_is_grey(file) for file in files} == {True}
    train_files, test_files = hold_out(root.name, classes, test, np.random.default_rng(seed))

    def read(files: Sequence[tuple[int, Path]], dataset: Path = root) -> tuple[Images, Tensor]:
        paths = [file for _, file in files]
        images = read_files(paths, size=shape, dataset=dataset.name, mode="L" if grey else "RGB")
        return images, torch.tensor([label for label, _ in files], dtype=torch.int64)

    train, train_labels = read(train_files)
    held_out, held_out_labels = without(*read(test_files), train)
    if not len(held_out):
        raise ValueError(f"every test image of {root} is also a training image; remove the copies")
    known: Images = torch.empty(0, *train.shape[1:])
    known_labels, known_names = None, None
    if public is not None:
        place = folder_of("public", public)
        known_files, names = public_files(place)
        known, labels = without(*read(known_files, place), train, held_out)
        if names is not None:
            known_labels, known_names = renumbered(labels, names)
    return Split(
        name=root.name,
        train=ImageSet(train, train_labels),
        test=ImageSet(held_out, held_out_labels),
        public=known,
        class_names=tuple(classes),
        distance=distance,
        citation=f"the images of the folder {root.name}",
        public_labels=known_labels,
        public_class_names=known_names,
    )


def public_files(place: Path) -> tuple[list[tuple[int, Path]], tuple[str, ...] | None]:
    """Return the public images of a folder with their labels, and the names of the classes; None without subfolders.

    Raises:
        ValueError: there are no images.
    """
    others = class_files(place)
    if others:
        labelled = [(label, file) for label, own in enumerate(others.values()) for file in own]
        return labelled, tuple(f"{place.name}/{name}" for name in others)
    found = [(0, file) for file in _images(place)]
    if not found:
        raise ValueError(f"public {place} has no images, and no subfolders of images")
    return found, None


def folder_of(option: str, text: str) -> Path:
    """Return the folder that an option names.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        path = Path(text).expanduser()
        found = bool(text.strip()) and path.is_dir()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # a name too long, of an unknown user, or with a null character
        found = False
    if not found:
        raise FileNotFoundError(
            f"{option} is {text!r}, which is no folder; a relative path begins at {Path.cwd()}"
        )
    return path.resolve()


def class_files(root: Path) -> dict[str, list[Path]]:
    """Return the images of every subfolder, sorted by name; hidden folders do not count."""
    for path in root.iterdir():
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a link that leads nowhere; remove it")
    found = {
        path.name: _images(path) for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."
    }
    if empty := [name for name, files in found.items() if not files]:
        raise ValueError(f"{root / empty[0]} must hold the images of a class, but has none; remove it")
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )


def _shape(size: Size | None, files: Sequence[Path]) -> tuple[int, int]:
    """Return height and width of all images."""
    if size is not None:
        shape = (size, size) if isinstance(size, int) else tuple(size)
        if len(shape) != 2 or not 1 <= min(shape) <= max(shape) <= LARGEST_SIDE:
            raise ValueError(
                f"size must be one number or (height, width), each from 1 to {LARGEST_SIDE}; got {size!r}"
            )
        return shape
    first = _size_of(files[0])
    for file in files:
        if (found := _size_of(file)) != first:
            raise ValueError(
                f"the images have several sizes, such as {first[0]} x {first[1]} ({files[0]}) and {found[0]} x "
                f"{found[1]} pixels ({file}); give size = 64, or size = [height, width]"
            )
    return first


def _size_of(file: Path) -> tuple[int, int]:
    """Return height and width as a viewer shows the image."""

    def size(image: Image.Image) -> tuple[int, int]:
        upright = ImageOps.exif_transpose(image)
        return upright.height, upright.width

    return _of_header(file, size)


def _is_grey(file: Path) -> bool:
    return _of_header(
        file, lambda image: image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    )


def _of_header(file: Path, asked: Callable[[Image.Image], Found]) -> Found:
    if not file.is_file():  # Pillow would wait for the writer of a pipe
        raise ValueError(f"{file} must be an image file, not a folder, a pipe or a broken link. Remove it.")
    try:
        with warnings.catch_warnings():  # an error follows, or another warning when the image is read
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return asked(image)
    except Exception as error:  # Pillow's readers raise errors of many types for a broken file
        raise ValueError(f"{file} is corrupt or not an image: {error}. Remove it.") from error
