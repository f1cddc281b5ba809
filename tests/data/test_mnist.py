import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from dpmi.data import load


@pytest.fixture(scope="module")
def mnist(data_root):
    return load("mnist", root=data_root)


def test_mnist_counts_are_the_published_ones(mnist):
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.labels.bincount().tolist() == train
    assert mnist.test.labels.bincount().tolist() == test


def test_mnist_pixels_have_the_published_mean_and_deviation(mnist):
    # The constants that every MNIST example normalises with.
    assert mnist.train.images.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert mnist.train.images.double().std().item() == pytest.approx(0.3081, abs=5e-5)


def test_mnist_public_images_are_characters_light_on_black(mnist):
    assert mnist.public.shape == (4840, 1, 28, 28)
    assert mnist.distance == "euclidean"
    corners = mnist.public[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() < 0.01
    assert mnist.public.flatten(1).amax(1).min() > 0.5


def test_mnist_public_classes_are_the_characters(mnist):
    assert mnist.public_labels.bincount().tolist() == [20] * 242
    assert mnist.public_class_names[0] == "omniglot/Balinese/character01"
    assert mnist.identities[3] == "mnist/3"


@pytest.fixture(scope="module")
def half(data_root):
    return load("mnist-half", root=data_root)


def test_mnist_half_counts_are_the_published_ones(half):
    assert half.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842]
    assert len(half.test) == 5139
    assert half.public_labels.bincount().tolist() == [6313, 6876, 7293, 6825, 6958]
    assert half.class_names == tuple("01234")
    assert half.identities == tuple(f"mnist/{digit}" for digit in range(5))
    assert half.public_class_names == tuple(f"mnist/{digit}" for digit in range(5, 10))


def test_mnist_half_is_mnist_resized(mnist, half):
    assert half.image_shape == (1, 32, 32)
    ours = half.train.images[:50]
    own = mnist.train.images[mnist.train.labels < 5][:50]
    pictures = [Image.fromarray((image[0] * 255).byte().numpy()).convert("F") for image in own]
    theirs = [np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)) / 255 for picture in pictures]
    np.testing.assert_allclose(ours[:, 0], np.stack(theirs), atol=1e-5)


def test_mnist_half_at_28_pixels_holds_every_image_of_mnist_once(mnist, data_root):
    half = load("mnist-half", root=data_root, size=28)
    ours = [half.train.images, half.test.images, half.public]
    theirs = {image.tobytes() for part in (mnist.train, mnist.test) for image in part.images.numpy()}
    assert {image.tobytes() for part in ours for image in part.numpy()} == theirs
    assert sum(map(len, ours)) == 70_000 == len(theirs)


def test_mnist_half_has_two_sizes(data_root):
    with pytest.raises(ValueError, match="size must be 28 or 32; got 30"):
        load("mnist-half", root=data_root, size=30)


def test_fashion_mnist(data_root):
    split = load("fashion-mnist", root=data_root)
    assert split.train.labels.bincount().tolist() == [6000] * 10
    assert split.test.labels.bincount().tolist() == [1000] * 10
    assert split.class_names[9] == "ankle boot"
    # Its own published mean and deviation, and MNIST's mean for the public part.
    assert split.train.images.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert split.train.images.double().std().item() == pytest.approx(0.3530, abs=5e-5)
    assert split.public.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert split.public_labels.bincount()[[0, 9]].tolist() == [5923, 5949]
    assert split.public_class_names[9] == "mnist/9"


def test_reading_writes_nothing_into_the_data_root(data_root, mnist):
    assert sorted(path.suffix for path in (data_root / "MNIST" / "raw").iterdir()) == [".gz"] * 4


def test_a_download_is_torchvisions_and_reads_the_same(data_root, tmp_path, mnist, monkeypatch):
    # torchvision takes the gz files that are there, by md5, but would fetch Omniglot.
    shutil.copytree(data_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    shutil.copytree(data_root / "omniglot", tmp_path / "omniglot")
    fetched = []
    monkeypatch.setattr(
        torchvision.datasets, "Omniglot", lambda root, download: fetched.append((root, download))
    )
    split = load("mnist", root=tmp_path, download=True)
    assert fetched == [(tmp_path, True)]
    for packed in (tmp_path / "MNIST" / "raw").glob("*.gz"):
        assert packed.with_suffix("").is_file()
        packed.unlink()
    unpacked = load("mnist", root=tmp_path)
    for other in (split, unpacked):
        torch.testing.assert_close(other.test.images, mnist.test.images, rtol=0, atol=0)
        torch.testing.assert_close(other.public, mnist.public, rtol=0, atol=0)


def test_a_damaged_file_is_refused_by_name(data_root, tmp_path):
    shutil.copytree(data_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is truncated or corrupt: "):
        load("mnist", root=tmp_path)
