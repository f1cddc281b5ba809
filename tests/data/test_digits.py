import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from dpmi.data import load

SPLIT = load("digits")


def test_every_digit_image_is_in_exactly_one_part():
    ours = torch.cat([SPLIT.train.images, SPLIT.test.images, SPLIT.public]).flatten(1).numpy() * 16
    theirs = sklearn_digits().data
    np.testing.assert_array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))
    assert (len(ours), len(np.unique(theirs, axis=0))) == (1797, 1797)


def test_images_keep_their_labels():
    label_of = {row.tobytes(): label for row, label in zip(*sklearn_digits(return_X_y=True), strict=True)}
    rows = (SPLIT.train.images.double() * 16).flatten(1).numpy()
    assert [label_of[row.tobytes()] for row in rows] == SPLIT.train.labels.tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_are_stratified(seed):
    split = load("digits", seed=seed)
    whole = np.bincount(sklearn_digits().target)
    for part, size in ((split.train, 1197), (split.test, 300)):
        assert len(part) == size
        np.testing.assert_allclose(part.labels.bincount().numpy(), whole * size / 1797, atol=1.01)
    assert len(split.public) == 300


def test_the_seed_decides_the_split():
    torch.testing.assert_close(load("digits", seed=0).train.images, SPLIT.train.images, rtol=0, atol=0)
    assert not torch.equal(load("digits", seed=1).train.images, SPLIT.train.images)


def test_description():
    assert SPLIT.distance == "euclidean"
    assert SPLIT.image_shape == (1, 8, 8)
    assert SPLIT.class_names == tuple("0123456789")
