"""Omniglot's characters: a data set with many classes and few images of each."""

from pathlib import Path

import numpy as np
import torch

from dpmi.data.files import download as fetch
from dpmi.data.images import to_images, to_labels
from dpmi.data.mnist import MNIST_IDENTITIES, read_mnist_train
from dpmi.data.read_omniglot import WRITERS, read_characters
from dpmi.data.split import ImageSet, Split

TEST_WRITERS = 5

CITATION = (
    "B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum, Human-level concept learning through probabilistic "
    "program induction, Science 350, 2015; https://github.com/brendenlake/omniglot"
)


def load_omniglot(root: Path | None, *, seed: int = 0, download: bool = False) -> Split:
    """Load Omniglot: images (1, 28, 28), 242 characters of 8 alphabets, 15 train and 5 test images of each.

    The split is by writer: no writer of a test image drew a training image of the same alphabet. Units are users: the
    120 people who drew the training images of one alphabet each. The public images are the training images of MNIST.

    Args:
        root: data root with ``omniglot`` and ``MNIST/raw``.
        seed: seed of the 5 held-out writers of 20.
        download: whether torchvision downloads both into ``root`` first.
    """
    if download:
        fetch(root, "Omniglot", "MNIST")
    characters = read_characters(root, dataset="omniglot")
    class_names, classes = np.unique(characters.names, return_inverse=True)
    images, labels = to_images(characters.pixels), to_labels(classes)
    # Writers are numbered within an alphabet; each alphabet has its own twenty.
    alphabets = [name.partition("/")[0] for name in characters.names]
    _, people = np.unique(
        [f"{alphabet} {writer}" for alphabet, writer in zip(alphabets, characters.writers, strict=True)],
        return_inverse=True,
    )
    users = to_labels(people)
    held_out = np.random.default_rng(seed).choice(WRITERS, TEST_WRITERS, replace=False) + 1
    test = torch.from_numpy(np.isin(characters.writers, held_out))
    public = read_mnist_train(root, dataset="omniglot")
    return Split(
        name="omniglot",
        train=ImageSet(images[~test], labels[~test], users[~test]),
        test=ImageSet(images[test], labels[test], users[test]),
        public=public.images,
        class_names=tuple(class_names.tolist()),
        distance="euclidean",
        citation=CITATION,
        public_labels=public.labels,
        public_class_names=MNIST_IDENTITIES,
    )
