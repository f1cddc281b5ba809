"""One data set, one small model, and one way to train it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dpmi import data, models
from dpmi.data import ImageSet, Split
from dpmi.defenses import Defense, Recipe, Trained, train

RECIPE = Recipe(steps=40, learning_rate=0.5)


@pytest.fixture(autouse=True, scope="module")  # before the models that a module trains once
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def split() -> Split:
    return data.load("digits")


def softmax() -> nn.Module:
    return models.build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=3)


def fit(
    defense: Defense,
    records: ImageSet,
    *,
    seed: int = 0,
    model: nn.Module | None = None,
    recipe: Recipe = RECIPE,
) -> Trained:
    return train(defense, softmax() if model is None else model, records, recipe, seed=seed)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
