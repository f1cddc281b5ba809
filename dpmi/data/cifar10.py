"""CIFAR-10 with half of its classes private."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpmi.data.files import data_folder, missing
from dpmi.data.files import download as fetch
from dpmi.data.images import to_images, to_labels, without
from dpmi.data.split import ImageSet, Split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: The first five classes are private, like MNIST's digits 0-4 in ``mnist-half``.
PRIVATE_CLASSES = 5

_FOLDER = "cifar-10-batches-py"
_HOLDS = "data_batch_1..5, test_batch and batches.meta"

CITATION = (
    "A. Krizhevsky, Learning multiple layers of features from tiny images, technical report, University of "
    "Toronto, 2009; https://www.cs.toronto.edu/~kriz/cifar.html"
)


def load_cifar10(root: Path | None, *, download: bool = False) -> Split:
    """Load CIFAR-10: colour (3, 32, 32), 5 private classes, 25,000 train and 5,000 test.

    The private classes are airplane, automobile, bird, cat and deer. The 30,000 public images are all images of dog,
    frog, horse, ship and truck, including CIFAR-10's test images. The MIA distance is Euclidean. A test image that
    equals a training image is removed; near-duplicates (3.3 % according to Barz and Denzler, ciFAIR) remain.

    Args:
        root: data root with ``cifar-10-batches-py``, the published Python version.
        download: whether torchvision downloads it into ``root`` first.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not the published one.
    """
    if download:
        fetch(root, "CIFAR10")
    pixels, classes, in_train = _read(root)
    private = classes < PRIVATE_CLASSES

    def part(rows: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        return to_images(pixels[rows]), to_labels(classes[rows])

    train, train_labels = part(private & in_train)
    test, test_labels = without(*part(private & ~in_train), train)
    public, public_labels = without(*part(~private), train, test)
    return Split(
        name="cifar10",
        train=ImageSet(train, train_labels),
        test=ImageSet(test, test_labels),
        public=public,
        class_names=CLASSES[:PRIVATE_CLASSES],
        distance="euclidean",
        citation=CITATION,
        public_labels=public_labels - PRIVATE_CLASSES,
        public_class_names=tuple(f"cifar10/{name}" for name in CLASSES[PRIVATE_CLASSES:]),
    )


def _read(root: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Return all images, bytes ``(60000, 32, 32, 3)``, their classes, and whether each is a training image."""
    folder = data_folder(root, _FOLDER, dataset="cifar10", holds=_HOLDS)
    # Imported here because the import takes as long as that of torch.
    from torchvision.datasets import CIFAR10  # noqa: PLC0415
    from torchvision.datasets.utils import check_integrity  # noqa: PLC0415

    # The files are pickles, which can run code, so only the published files are opened.
    for name, md5 in (
        *CIFAR10.train_list,
        *CIFAR10.test_list,
        (CIFAR10.meta["filename"], CIFAR10.meta["md5"]),
    ):
        if not (folder / name).is_file():
            raise missing(folder, dataset="cifar10", holds=name)
        if not check_integrity(folder / name, md5):
            raise ValueError(
                f"{folder / name} is not the published file: its md5 is not {md5}. Download it again."
            )
    train, test = (CIFAR10(folder.parent, train=train) for train in (True, False))
    return (
        np.concatenate([train.data, test.data]),
        np.array(train.targets + test.targets, dtype=np.int64),
        np.arange(len(train) + len(test)) < len(train),
    )
