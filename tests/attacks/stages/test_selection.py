"""Which rows of a class are kept, and the confidence that selects them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Budget, Target
from dpmi.attacks.stages.search import PHYSICAL_IMAGES
from dpmi.attacks.stages.selection import best_rows, confidence

LABELS = torch.tensor([0, 1, 1])
IMAGES = torch.tensor([0.2, 0.7, 0.4]).view(3, 1, 1, 1)


class Bright(nn.Module):
    """The logit of class 1 is the brightness of the image, that of class 0 is 0."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.flatten(1).mean(dim=1)
        return torch.stack([torch.zeros_like(brightness), brightness], dim=1)


def of_class(images: Tensor, labels: Tensor) -> Tensor:
    """The softmax of two logits, by hand."""
    sign = 2.0 * labels - 1
    return 1 / (1 + (-sign * images.flatten(1).mean(dim=1)).exp())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_each_class_keeps_its_rows_of_least_cost_in_their_order(keep: int) -> None:
    costs = torch.tensor([3.0, 1.0, 2.0, 5.0, 5.0, 4.0, torch.nan, 9.0, torch.nan])
    expected = [[1, 2, 0], [5, 3, 4], [7, 6, 8]]
    found = best_rows(costs, candidates=3, keep=keep)
    assert found.dtype == torch.int64
    assert found.view(3, keep).tolist() == [rows[:keep] for rows in expected]


def test_confidence_is_the_softmax_of_the_class() -> None:
    target = Target(Bright())
    torch.testing.assert_close(confidence(target, IMAGES, LABELS), of_class(IMAGES, LABELS))
    assert target.queries == 3


def test_it_is_the_mean_over_transforms() -> None:
    shifts = iter((0.1, 0.3, 0.5))
    target = Target(Bright())
    found = confidence(target, IMAGES, LABELS, transform=lambda images: images + next(shifts), draws=3)
    expected = torch.stack([of_class(IMAGES + shift, LABELS) for shift in (0.1, 0.3, 0.5)]).mean(dim=0)
    torch.testing.assert_close(found, expected)
    assert target.queries == 9


@pytest.mark.parametrize(("queries", "draws"), [(2, 0), (7, 2)])
def test_the_mean_is_over_as_many_draws_as_the_budget_allows(queries: int, draws: int) -> None:
    target = Target(Bright(), budget=Budget(queries=queries))
    found = confidence(target, IMAGES, LABELS, draws=5)
    assert target.queries == 3 * draws
    torch.testing.assert_close(found, of_class(IMAGES, LABELS) if draws else torch.zeros(3))


def test_images_beyond_one_physical_batch() -> None:
    images = torch.linspace(0, 1, PHYSICAL_IMAGES + 5).view(-1, 1, 1, 1)
    labels = torch.arange(len(images)) % 2
    torch.testing.assert_close(confidence(Target(Bright()), images, labels), of_class(images, labels))
