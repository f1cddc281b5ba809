import hashlib
import pickle

import numpy as np
import pytest
import torchvision
from torchvision.datasets import CIFAR10

from dpmi.data import load

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(20, 3072), dtype=np.uint8)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A CIFAR-10 of two training batches and one test batch of 20 images, whose md5 torchvision is told."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict[str, object]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    labels = list(range(10)) * 2
    batches = [
        write(name, {"data": pixels_of(seed), "labels": labels})
        for seed, name in enumerate(("data_batch_1", "data_batch_2", "test_batch"))
    ]
    meta = write("batches.meta", {"label_names": NAMES})
    monkeypatch.setattr(CIFAR10, "train_list", batches[:2])
    monkeypatch.setattr(CIFAR10, "test_list", batches[2:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta[1]})
    return tmp_path


def test_the_first_five_classes_are_private(root):
    split = load("cifar10", root=root)
    assert split.train.labels.bincount().tolist() == [4] * 5
    assert split.test.labels.bincount().tolist() == [2] * 5
    assert split.public_labels.bincount().tolist() == [6] * 5
    assert split.image_shape == (3, 32, 32)
    assert split.class_names == ("airplane", "automobile", "bird", "cat", "deer")
    assert split.public_class_names[0] == "cifar10/dog"


def test_pixels_are_the_published_ones(root):
    # A row of a batch is the red plane, the green and the blue, each row by row: the format's description.
    split = load("cifar10", root=root)
    expected = [pixels_of(0)[:5], pixels_of(0)[10:15], pixels_of(1)[:5], pixels_of(1)[10:15]]
    ours = (split.train.images * 255).round().numpy().reshape(-1, 3072)
    np.testing.assert_array_equal(ours, np.concatenate(expected))
    np.testing.assert_array_equal(
        (split.test.images * 255).round().numpy()[:, 1, 0, 0], pixels_of(2)[[*range(5), *range(10, 15)], 1024]
    )


def test_a_missing_file_is_named(root):
    (root / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match=r"'cifar10' needs test_batch in .*cifar-10-batches-py"):
        load("cifar10", root=root)


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_file_that_is_not_the_published_one_is_named_and_not_opened(root, name, monkeypatch):
    file = root / "cifar-10-batches-py" / name
    file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr(pickle, "load", None)
    with pytest.raises(ValueError, match=f"{name} is not the published file"):
        load("cifar10", root=root)


def test_a_download_is_torchvisions(root, monkeypatch):
    fetched = []

    class Download(CIFAR10):
        def __init__(self, root, train=True, download=False):
            fetched.append((root, download))
            super().__init__(root, train=train)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Download)
    load("cifar10", root=root)
    assert not any(download for _, download in fetched)
    load("cifar10", root=root, download=True)
    assert (root, True) in fetched
