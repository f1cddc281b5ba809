import shutil

import pytest
import torch
import torchvision

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


def test_fashion_mnist(data_root):
    split = load("fashion-mnist", root=data_root)
    assert split.train.labels.bincount().tolist() == [6000] * 10
    assert split.test.labels.bincount().tolist() == [1000] * 10
    assert split.class_names[9] == "ankle boot"
    # Its own published mean and deviation, and MNIST's mean for the public part.
    assert split.train.images.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert split.train.images.double().std().item() == pytest.approx(0.3530, abs=5e-5)
    assert split.public.mean().item() == pytest.approx(0.1307, abs=5e-5)


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
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is truncated or corrupted"):
        load("mnist", root=tmp_path)
