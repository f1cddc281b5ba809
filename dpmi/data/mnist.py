"""MNIST and Fashion-MNIST, read directly from the four idx files of each."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpmi.data.files import data_folder, missing
from dpmi.data.files import download as fetch
from dpmi.data.images import to_images, to_labels
from dpmi.data.lazy import joined
from dpmi.data.read_idx import read_idx
from dpmi.data.read_omniglot import read_characters
from dpmi.data.split import ImageSet, Split

MNIST_CITATION = (
    "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, "
    "Proc. IEEE 86(11), 1998; http://yann.lecun.com/exdb/mnist/"
)
FASHION_CITATION = (
    "H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning "
    "algorithms, arXiv:1708.07747, 2017"
)
ARTICLES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DIGITS = tuple(str(digit) for digit in range(10))
#: The names of MNIST's classes that are common to all data sets.
MNIST_IDENTITIES = tuple(f"mnist/{digit}" for digit in DIGITS)
#: Digits 0-4 are private, 5-9 public, as in the published code of KED-MI and BiDO.
PRIVATE_DIGITS = 5
#: The side of MNIST's images, and the input side of the classifiers of KED-MI and BiDO.
MNIST_SIDE, PAPERS_SIDE = 28, 32


def load_mnist(root: Path | None, *, download: bool = False) -> Split:
    """Load MNIST: images (1, 28, 28), 10 digits, 60,000 train and 10,000 test; the MIA distance is Euclidean.

    The public images are 4,840 handwritten characters of Omniglot by other people, inverted to light strokes on black
    and scaled to 28x28. No character is a digit, although some (the Latin o) look like one, and the strokes are thinner
    than MNIST's.

    Args:
        root: data root with ``MNIST/raw`` and ``omniglot``.
        download: whether torchvision downloads both into ``root`` first.
    """
    if download:
        fetch(root, "MNIST", "Omniglot")
    train, test = _read(root, "MNIST/raw", dataset="mnist")
    characters = read_characters(root, dataset="mnist")
    public_names, public_classes = np.unique(characters.names, return_inverse=True)
    return Split(
        name="mnist",
        train=train,
        test=test,
        public=to_images(characters.pixels),
        class_names=DIGITS,
        distance="euclidean",
        citation=MNIST_CITATION,
        public_labels=to_labels(public_classes),
        public_class_names=tuple(f"omniglot/{name}" for name in public_names),
    )


def load_mnist_half(root: Path | None, *, size: int = PAPERS_SIDE, download: bool = False) -> Split:
    """Load the two halves of MNIST as in KED-MI and BiDO: digits 0-4 are private, 5-9 public.

    Images (1, 32, 32), 5 digits, 30,596 train and 5,139 test; the MIA distance is Euclidean. The 34,265 public images
    are *all* images of digits 5-9, including MNIST's test images; public label j is digit 5 + j. The papers resize to
    32x32; this function uses torch's bilinear interpolation, without padding.

    Args:
        root: data root with ``MNIST/raw``.
        size: 32, or 28 for the original images.
        download: whether torchvision downloads MNIST into ``root`` first.
    """
    if size not in {MNIST_SIDE, PAPERS_SIDE}:
        raise ValueError(f"size must be {MNIST_SIDE} or {PAPERS_SIDE}; got {size!r}")
    if download:
        fetch(root, "MNIST")
    parts = _read(root, "MNIST/raw", dataset="mnist-half")
    train, test = (_where(part, part.labels < PRIVATE_DIGITS, size) for part in parts)
    public = [_where(part, part.labels >= PRIVATE_DIGITS, size) for part in parts]
    return Split(
        name="mnist-half",
        train=train,
        test=test,
        public=joined(*(part.images for part in public)),
        class_names=DIGITS[:PRIVATE_DIGITS],
        distance="euclidean",
        citation=MNIST_CITATION,
        public_labels=torch.cat([part.labels for part in public]) - PRIVATE_DIGITS,
        public_class_names=MNIST_IDENTITIES[PRIVATE_DIGITS:],
        collection="mnist",
    )


def load_fashion_mnist(root: Path | None, *, download: bool = False) -> Split:
    """Load Fashion-MNIST: images (1, 28, 28), 10 articles, 60,000 train and 10,000 test.

    The public images are the training images of MNIST.

    Args:
        root: data root with ``FashionMNIST/raw`` and ``MNIST/raw``.
        download: whether torchvision downloads both into ``root`` first.
    """
    if download:
        fetch(root, "FashionMNIST", "MNIST")
    train, test = _read(root, "FashionMNIST/raw", dataset="fashion-mnist")
    public = read_mnist_train(root, dataset="fashion-mnist")
    return Split(
        name="fashion-mnist",
        train=train,
        test=test,
        public=public.images,
        class_names=ARTICLES,
        distance="euclidean",
        citation=FASHION_CITATION,
        public_labels=public.labels,
        public_class_names=MNIST_IDENTITIES,
    )


def read_mnist_train(root: Path | None, *, dataset: str) -> ImageSet:
    """Read MNIST's 60,000 training images as the public part of the data set ``dataset``."""
    return _read_part(root, "MNIST/raw", "train", dataset=dataset)


def _where(part: ImageSet, rows: Tensor, size: int) -> ImageSet:
    """Return the selected images, resized to ``size`` x ``size``."""
    images = part.images[rows]
    if size != MNIST_SIDE:
        images = functional.interpolate(images, size=(size, size), mode="bilinear")
    # The interpolation weights of a pixel sum to 1 only up to rounding.
    return ImageSet(images.clamp_(0, 1), part.labels[rows])


def _read(root: Path | None, folder: str, *, dataset: str) -> tuple[ImageSet, ImageSet]:
    return _read_part(root, folder, "train", dataset=dataset), _read_part(
        root, folder, "t10k", dataset=dataset
    )


def _read_part(root: Path | None, folder: str, part: str, *, dataset: str) -> ImageSet:
    return ImageSet(
        to_images(_read_file(root, folder, f"{part}-images-idx3-ubyte", axes=3, dataset=dataset)),
        to_labels(_read_file(root, folder, f"{part}-labels-idx1-ubyte", axes=1, dataset=dataset)),
    )


def _read_file(root: Path | None, folder: str, stem: str, *, axes: int, dataset: str) -> NDArray[np.uint8]:
    """Read one idx file: the published gz file, or else an unpacked copy."""
    holds = f"{stem}.gz or {stem}"
    raw = data_folder(root, folder, dataset=dataset, holds=holds)
    for path in (raw / f"{stem}.gz", raw / stem):
        if path.is_file():
            return read_idx(path, axes=axes)
    raise missing(raw, dataset=dataset, holds=holds)
