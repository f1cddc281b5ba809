"""Batches of images on the disk are bit for bit those of a tensor, whatever draws them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dpmi import models
from dpmi.data import ImageSet
from dpmi.data.stored_images import StoredImages
from dpmi.defenses import Recipe, get, train
from dpmi.defenses.augmentation import Augmentation
from dpmi.defenses.records import records

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (120, 1, 8, 8), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.arange(120) % 4
IMAGES = PIXELS.float() / 255
PRIVATE = {"noise_multiplier": 0.5, "sampling_rate": 0.4, "max_grad_norm": 1.0}


def on_disk() -> StoredImages:
    found = StoredImages(len(PIXELS), (1, 8, 8))
    for row, image in enumerate(PIXELS.numpy()):
        found.write(row, image)
    return found


def test_records_are_those_of_a_tensor():
    tensors, lazy = records(IMAGES, LABELS), records(on_disk(), LABELS)
    assert type(tensors) is TensorDataset, "the private loader has a faster way for it"
    assert len(lazy) == len(tensors) == 120
    for row in (0, 119):
        assert all(map(torch.equal, lazy[row], tensors[row]))
    rows = [7, 3, 3, 100]
    assert all(map(torch.equal, lazy[rows], tensors[rows]))
    fetched = lazy.__getitems__(rows)
    assert len(fetched) == 4
    assert all(
        torch.equal(x, IMAGES[row]) and y == LABELS[row] for (x, y), row in zip(fetched, rows, strict=True)
    )


def test_a_batch_is_read_in_one_call(monkeypatch):
    images = on_disk()
    reads, read = [], images.read
    monkeypatch.setattr(images, "read", lambda rows: reads.append(len(rows)) or read(rows))
    assert [len(x) for x, _ in DataLoader(records(images, LABELS), batch_size=50)] == [50, 50, 20]
    assert reads == [50, 50, 20]


FLIPS = (Augmentation("RandomHorizontalFlip"), Augmentation("RandomResizedCrop", size=8, scale=[0.7, 1.0]))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("none", {}),
        ("none", {"augmentation": FLIPS}),
        ("record-dp", {**PRIVATE, "sampling_rate": 0.1, "augmentation": FLIPS}),
        ("class-dp", {**PRIVATE, "augmentation": FLIPS}),
        ("record-dp", {**PRIVATE, "sampling_rate": 0.1}),
        ("class-dp", PRIVATE),
        ("class-dp", {**PRIVATE, "max_records_per_bucket": 5}),
        ("subclass-dp", {**PRIVATE, "clusters_per_class": 3}),
        ("trapdoor", {}),
        ("bido-hsic", {}),
        ("transfer", {"frozen_fraction": 0.5}),
    ],
)
def test_a_model_of_images_on_the_disk_is_bit_for_bit_that_of_a_tensor(name, settings):
    found = []
    own = {key: value for key, value in settings.items() if key != "augmentation"}
    augmentation = settings.get("augmentation", ())
    for images in (IMAGES, on_disk()):
        model = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=4, seed=0)
        trained = train(
            get(name)(**own),
            model,
            ImageSet(images, LABELS),
            Recipe(steps=6, learning_rate=0.1, batch_size=32, augmentation=augmentation),
            seed=3,
            public=ImageSet(images, LABELS),
        )
        found.append(trained)
    first, second = ([*each.model.state_dict().values()] for each in found)
    assert all(map(torch.equal, first, second))
    assert found[0].diagnostics == found[1].diagnostics
    if found[0].account is not None:
        assert found[0].account.partition_hash == found[1].account.partition_hash
