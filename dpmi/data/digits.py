"""The 1,797 handwritten digits of scikit-learn, a data set without a download."""

import numpy as np
import torch
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from dpmi.data.images import to_labels
from dpmi.data.split import ImageSet, Split

TEST_IMAGES = 300
PUBLIC_IMAGES = 300

CITATION = (
    "E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
    "1998; the test part, as distributed with scikit-learn"
)


def load_digits(*, seed: int = 0) -> Split:
    """Load digits: images (1, 8, 8), 10 classes, 1,197 train, 300 test and 300 public.

    The parts are stratified by digit. The public part consists of held-out images *of the same distribution*, the
    strongest possible public data; in ``mnist`` the public data are other handwriting. There are no public labels,
    because the public classes are the private ones.

    Args:
        seed: seed of the split.

    >>> load_digits()
    Split('digits', train=1197, test=300, public=300, classes=10, image_shape=(1, 8, 8))
    """
    bunch = sklearn_digits()
    # The 17 grey levels 0..16 count the ink in 4x4 blocks of a 32x32 bitmap.
    images = torch.from_numpy((bunch.images / 16).astype(np.float32)).unsqueeze(1)
    labels = to_labels(bunch.target)
    rest, public = train_test_split(
        np.arange(len(labels)), test_size=PUBLIC_IMAGES, stratify=bunch.target, random_state=seed
    )
    train, test = train_test_split(
        rest, test_size=TEST_IMAGES, stratify=bunch.target[rest], random_state=seed
    )
    return Split(
        name="digits",
        train=ImageSet(images[train], labels[train]),
        test=ImageSet(images[test], labels[test]),
        public=images[public],
        class_names=tuple(str(digit) for digit in range(10)),
        distance="euclidean",
        citation=CITATION,
    )
