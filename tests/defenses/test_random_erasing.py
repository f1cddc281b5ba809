"""Random erasing: one rectangle per image, of the stated sizes, anywhere with the stated probability."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from dpmi.data import ImageSet
from dpmi.defenses import RandomErasing, Recipe, train

SHAPES = [(1, 28, 28), (3, 12, 20)]


def erase(defense: RandomErasing, images: Tensor, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return defense.augment(images)


def erased(defense: RandomErasing, n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Which pixels are erased, bool (n, H, W); in all channels or in none."""
    images = torch.full((n, *shape), 2.0)
    gone = erase(defense, images, seed) != images
    assert torch.equal(gone.any(dim=1), gone.all(dim=1))
    return gone[:, 0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("area", [0.05, 0.3, 0.8])
def test_one_rectangle_of_the_size_asked_for(shape: tuple[int, int, int], area: float) -> None:
    gone = erased(RandomErasing(max_area=area, min_area=area), 500, shape)
    rows, columns = gone.any(dim=2), gone.any(dim=1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :]), "no rectangle"
    for lines, side in ((rows, shape[1]), (columns, shape[2])):
        length = round(area**0.5 * side)
        assert (lines.sum(dim=1) == length).all()
        first = lines.int().argmax(dim=1)
        last = side - 1 - lines.flip(1).int().argmax(dim=1)
        assert (last - first + 1 == length).all(), "in pieces"


@pytest.mark.parametrize("shape", SHAPES)
def test_every_place_is_as_likely(shape: tuple[int, int, int]) -> None:
    """Against the exact probability of each pixel, and each record at a place of its own: five standard errors."""
    n, area = 5_000, 0.3
    gone = erased(RandomErasing(max_area=area, min_area=area), n, shape).double()

    def probability(side: int) -> Tensor:
        length = round(area**0.5 * side)
        starts = range(side - length + 1)
        covering = [sum(first <= i < first + length for first in starts) for i in range(side)]
        return torch.tensor(covering) / len(starts)

    expected = torch.outer(probability(shape[1]), probability(shape[2])).double()
    error = (expected * (1 - expected) / n).sqrt()
    assert ((gone.mean(dim=0) - expected).abs() <= 5 * error + 1e-12).all()
    neighbours = (gone[:-1].flatten(1) * gone[1:].flatten(1)).mean()
    assert float(neighbours) == pytest.approx(float(expected.square().mean()), rel=0.05)


def test_area_is_uniform_between_its_ends() -> None:
    gone = erased(RandomErasing(max_area=0.6, min_area=0.1), 4_000, (1, 150, 150))
    areas = gone.double().mean(dim=(1, 2))
    assert float(areas.min()) == pytest.approx(0.1, abs=0.006)
    assert float(areas.max()) == pytest.approx(0.6, abs=0.006)
    quartiles = torch.quantile(areas, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert quartiles.tolist() == pytest.approx([0.225, 0.35, 0.475], abs=0.03)


def test_something_is_always_left() -> None:
    gone = erased(RandomErasing(max_area=0.99, min_area=0.99), 200, (1, 8, 8))
    assert (~gone).any(dim=(1, 2)).all()


def test_mean_is_that_of_imagenet() -> None:
    images = torch.rand(50, 3, 12, 12) + 2
    changed = erase(RandomErasing(max_area=0.5), images)
    gone = (changed != images).any(dim=1)
    assert torch.equal(changed.movedim(1, -1)[~gone], images.movedim(1, -1)[~gone])
    values = changed.movedim(1, -1)[gone]
    torch.testing.assert_close(values, torch.tensor([0.485, 0.456, 0.406]).expand_as(values))
    grey = erase(RandomErasing(max_area=0.5), torch.full((5, 1, 12, 12), 2.0)).unique()
    # ITU-R 601 luminance of the same pixel.
    assert grey.tolist() == pytest.approx([0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406, 2.0], abs=1e-3)


def test_random_is_uniform_and_new_at_every_pixel() -> None:
    images = torch.full((200, 3, 16, 16), 2.0)
    changed = erase(RandomErasing(max_area=0.5, fill="random"), images)
    values = changed[changed != 2]
    n = len(values)
    assert len(values.unique()) > 0.99 * n
    assert (values >= 0).all()
    assert (values < 1).all()
    assert float(values.mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / n) ** 0.5)
    assert float(values.var()) == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("fill", ["mean", "random"])
def test_drawn_from_the_generator_that_training_seeds(fill: Literal["mean", "random"]) -> None:
    images = torch.rand(20, 1, 8, 8)
    defense = RandomErasing(max_area=0.5, fill=fill)
    assert torch.equal(erase(defense, images, 3), erase(defense, images, 3))
    assert not torch.equal(erase(defense, images, 3), erase(defense, images, 4))


def test_the_model_is_trained_on_erased_images_and_asked_about_whole_ones() -> None:
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    records = ImageSet(torch.full((40, 1, 8, 8), 0.25), torch.arange(40) % 2)
    trained = train(
        RandomErasing(max_area=0.4), model, records, Recipe(steps=2, learning_rate=0.1, batch_size=40), seed=0
    )
    assert len(seen) == 2
    assert all((images != 0.25).any(dim=(1, 2, 3)).all() for images in seen)
    assert not torch.equal(seen[0], seen[1])
    trained.model(records.images)
    assert torch.equal(seen[2], records.images)


def test_a_mean_pixel_of_two_channels_is_refused() -> None:
    records = ImageSet(torch.rand(4, 2, 8, 8), torch.arange(4) % 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 2))
    with pytest.raises(ValueError, match="with 1 or 3 channels, not 2; use 'random'"):
        train(RandomErasing(max_area=0.4), model, records, Recipe(steps=1, learning_rate=0.1), seed=0)
