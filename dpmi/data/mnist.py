"""MNIST and Fashion-MNIST, read in place from the four idx files of each."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpmi.data.characters import read_characters
from dpmi.data.download import download as fetch
from dpmi.data.files import data_folder, missing
from dpmi.data.idx import read_idx
from dpmi.data.pixels import to_images, to_labels
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


def load_mnist(root: Path | None, *, download: bool = False) -> Split:
    """Load MNIST: images (1, 28, 28), 10 digits, 60,000 train and 10,000 test; judged by Euclidean distance.

    The attacker's public images are 4,840 handwritten characters of Omniglot, inverted to light strokes on
    black and scaled to 28x28: handwriting by other people. None was drawn as a digit, though some
    (the Latin o) look like one, and the strokes are thinner than MNIST's.

    Args:
        root: holds ``MNIST/raw`` and ``omniglot``.
        download: let torchvision fetch both into ``root`` first.
    """
    if download:
        fetch(root, "MNIST", "Omniglot")
    train, test = _read(root, "MNIST/raw", dataset="mnist")
    return Split(
        name="mnist",
        train=train,
        test=test,
        public=to_images(read_characters(root, dataset="mnist").pixels),
        class_names=tuple(str(digit) for digit in range(10)),
        distance="euclidean",
        citation=MNIST_CITATION,
    )


def load_fashion_mnist(root: Path | None, *, download: bool = False) -> Split:
    """Load Fashion-MNIST: images (1, 28, 28), 10 articles, 60,000 train and 10,000 test.

    The attacker's public images are the training images of MNIST.

    Args:
        root: holds ``FashionMNIST/raw`` and ``MNIST/raw``.
        download: let torchvision fetch both into ``root`` first.
    """
    if download:
        fetch(root, "FashionMNIST", "MNIST")
    train, test = _read(root, "FashionMNIST/raw", dataset="fashion-mnist")
    return Split(
        name="fashion-mnist",
        train=train,
        test=test,
        public=to_images(read_mnist_pixels(root, dataset="fashion-mnist")),
        class_names=ARTICLES,
        distance="euclidean",
        citation=FASHION_CITATION,
    )


def read_mnist_pixels(root: Path | None, *, dataset: str) -> NDArray[np.uint8]:
    """Read MNIST's training images, bytes ``(60000, 28, 28)``, as the public part of ``dataset``."""
    return _read_file(root, "MNIST/raw", "train-images-idx3-ubyte", axes=3, dataset=dataset)


def _read(root: Path | None, folder: str, *, dataset: str) -> tuple[ImageSet, ImageSet]:
    train, test = (
        ImageSet(
            to_images(_read_file(root, folder, f"{part}-images-idx3-ubyte", axes=3, dataset=dataset)),
            to_labels(_read_file(root, folder, f"{part}-labels-idx1-ubyte", axes=1, dataset=dataset)),
        )
        for part in ("train", "t10k")
    )
    return train, test


def _read_file(root: Path | None, folder: str, stem: str, *, axes: int, dataset: str) -> NDArray[np.uint8]:
    """Read one idx file, preferring the gz as published over an unpacked copy."""
    holds = f"{stem}.gz or {stem}"
    raw = data_folder(root, folder, dataset=dataset, holds=holds)
    for path in (raw / f"{stem}.gz", raw / stem):
        if path.is_file():
            return read_idx(path, axes=axes)
    raise missing(raw, dataset=dataset, holds=holds)
