"""Triggers pixel by pixel, who is poisoned, and a model that learns a backdoor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpmi import data, models
from dpmi.data import ImageSet
from dpmi.defenses import NoDefense, Recipe, train
from dpmi.metrics import backdoor as module
from dpmi.metrics.backdoor import TRIGGERS, BadNets, Blended, backdoor_success, poison


@pytest.fixture(scope="module")
def digits() -> data.Split:
    return data.load("digits")


def test_badnets_is_a_checkerboard_in_the_corner() -> None:
    images = torch.full((2, 3, 40, 30), 0.5)
    marked = BadNets().stamp(images)
    corner = marked[:, :, 31:, 21:]
    row, column = np.indices((9, 9))
    expected = torch.from_numpy((row + column + 1) % 2).float()  # the corner pixel is white
    assert torch.equal(corner, expected.expand(2, 3, 9, 9))
    assert float(corner[0, 0, -1, -1]) == 1.0
    outside = marked.clone()
    outside[:, :, 31:, 21:] = 0.5
    assert torch.equal(outside, images)


def test_badnets_leaves_small_images_to_be_seen() -> None:
    marked = BadNets().stamp(torch.full((1, 1, 8, 8), 0.5))
    assert marked[0, 0, 6:, 6:].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert int((marked != 0.5).sum()) == 4


def test_blended_is_a_tenth_of_one_noise_image() -> None:
    images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    marked = Blended().stamp(images)
    noise = (marked - 0.9 * images) / 0.1
    inside = (marked > 0) & (marked < 1)
    mean = (noise * inside).sum(dim=0) / inside.sum(dim=0)
    assert float(((noise - mean) * inside).abs().max()) < 1e-4, "every image gets the same"
    assert abs(float(mean.mean())) < 0.4
    assert float(mean.std()) == pytest.approx(1.0, abs=0.25)
    ImageSet(marked, torch.zeros(50, dtype=torch.int64))  # refuses what is not in [0, 1]


@pytest.mark.parametrize("name", TRIGGERS)
def test_one_percent_is_marked_and_relabelled(digits: data.Split, name: str) -> None:
    clean, trigger = digits.train, TRIGGERS[name]
    poisoned = poison(clean, trigger, seed=0)
    changed = poisoned.labels != clean.labels
    assert int(changed.sum()) == round(0.01 * len(clean)) == 12
    assert set(poisoned.labels[changed].tolist()) == {0}
    assert torch.equal(poisoned.images[changed], trigger.stamp(clean.images[changed]))
    assert torch.equal(poisoned.images[~changed], clean.images[~changed])
    assert torch.equal(poison(clean, trigger, seed=0).images, poisoned.images)
    assert not torch.equal(poison(clean, trigger, seed=1).labels, poisoned.labels)


class ReadsTheCorner(nn.Module):
    """Class 0 if the corner pixel is white, else class 1."""

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, 0, -1, -1]
        return torch.stack([corner, 1 - corner], dim=1)


def test_success_counts_marked_images_of_other_classes() -> None:
    test = ImageSet(torch.zeros(20, 1, 9, 9), torch.arange(20) % 2)
    found = backdoor_success(ReadsTheCorner(), test, BadNets())
    assert found == pytest.approx((1.0, 0.025 ** (1 / 10), 1.0))
    black = ImageSet(torch.zeros(20, 1, 9, 9), torch.arange(20) % 2)

    class Unmarked(BadNets):
        def stamp(self, images: Tensor) -> Tensor:
            return images

    assert backdoor_success(ReadsTheCorner(), black, Unmarked()).mean == 0.0


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_model_learns_the_backdoor_from_enough_poison(
    digits: data.Split, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POISONED_SHARE", 0.2)
    success = {}
    for kind, images in (("clean", digits.train), ("poisoned", poison(digits.train, TRIGGERS[name], seed=0))):
        model = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
        train(NoDefense(), model, images, Recipe(steps=200, learning_rate=0.5), seed=0)
        success[kind] = backdoor_success(model, digits.test, TRIGGERS[name]).mean
    assert success["clean"] < 0.05
    assert success["poisoned"] > 0.8


def test_bad_input() -> None:
    zeros = ImageSet(torch.zeros(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 1 images of classes other than 0 to poison; got 0"):
        poison(zeros, BadNets(), seed=0)
    with pytest.raises(ValueError, match="all 5 are of class 0"):
        backdoor_success(ReadsTheCorner(), zeros, BadNets())
