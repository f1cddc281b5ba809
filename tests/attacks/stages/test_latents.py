"""Latent vectors: what they are drawn from, and how far they are moved."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpmi.attacks.priors import Generator
from dpmi.attacks.stages.latents import Latents, Noise, Views
from dpmi.attacks.stages.views import NUMBERS


def test_noise_depends_on_class_and_number_alone() -> None:
    both = Noise(torch.tensor([5, 5, 2, 2]), per_class=2, size=3, seed=1)
    alone = Noise(torch.tensor([2, 2]), per_class=2, size=3, seed=1)
    drawn = torch.stack([both.draw() for _ in range(3)])
    assert torch.equal(drawn[:, 2:], torch.stack([alone.draw() for _ in range(3)]))
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 12
    assert not torch.equal(
        Noise(torch.tensor([2, 2]), per_class=2, size=3, seed=1, first=2).draw(), drawn[0, 2:]
    )


def test_noise_is_standard_normal() -> None:
    drawn = Noise(torch.arange(50), per_class=1, size=400, seed=0).draw()
    assert abs(float(drawn.mean())) < 5 / math.sqrt(20_000)
    assert float(drawn.std()) == pytest.approx(1, abs=0.03)


def test_uniform_noise_is_uniform() -> None:
    drawn = Noise(torch.arange(50), per_class=1, size=400, seed=0, uniform=True).draw().flatten()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    quantiles = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(drawn.quantile(quantiles), quantiles, atol=0.015, rtol=0)


class _Shows(Generator):
    """An image is its latent."""

    def __init__(self) -> None:
        super().__init__(1, (1, 1, 1))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return latents.view(-1, 1, 1, 1)


def _views(labels: list[int]) -> Views:
    """Two rows of each class, latents 1, 2, ...; a view is the latent plus the first of its numbers."""
    start = torch.arange(1.0, len(labels) + 1)[:, None]
    return Views(
        Latents(_Shows(), start),
        lambda images, numbers: images + numbers[:, 0].view(-1, 1, 1, 1),
        labels=torch.tensor(labels),
        per_class=2,
        draws=3,
        seed=4,
    )


def test_every_view_of_every_row_and_step_has_its_own_numbers() -> None:
    """Row by row, those of a generator that the starting latents do not have."""
    views = _views([5, 5, 2, 2])
    numbers = Noise(torch.tensor([5, 5, 2, 2]), per_class=2, size=3 * NUMBERS, seed=4, first=2, uniform=True)
    for _ in range(2):
        expected = torch.arange(1.0, 5)[:, None] + numbers.draw().view(4, 3, NUMBERS)[:, :, 0]
        shown = torch.cat([views.images(slice(0, 3)), views.images(slice(3, 4))])
        torch.testing.assert_close(shown.flatten(), expected.flatten())
        assert len(shown.unique()) == 12
        views.advance()


def test_views_of_a_class_do_not_depend_on_the_others() -> None:
    both, alone = _views([5, 5, 2, 2]), _views([2, 2])
    torch.testing.assert_close(both.images(slice(2, 4)) - 2, alone.images(slice(0, 2)))
