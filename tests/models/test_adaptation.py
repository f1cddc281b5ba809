"""What an attacker who knows the defence searches on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpmi.models import Averaged
from dpmi.models.adaptation import DRAWS

IMAGES = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Noisy(nn.Module):
    """A linear classifier of four pixels whose logits are noisy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12, dtype=torch.float64).view(3, 4).sin())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = images.flatten(1) @ self.weight.T
        return logits + torch.randn_like(logits)


def test_averaged_is_the_log_of_the_mean_probabilities() -> None:
    torch.manual_seed(1)
    found = Averaged(Noisy(), draws=5)(IMAGES)
    torch.manual_seed(1)
    draws = Noisy()(IMAGES.repeat(5, 1, 1, 1)).softmax(dim=1)
    expected = torch.stack([draws[draw * 3 : (draw + 1) * 3] for draw in range(5)]).mean(dim=0)
    torch.testing.assert_close(found.exp(), expected)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(3, dtype=torch.float64))


def test_averaged_over_many_draws_is_the_expectation_and_so_is_its_gradient() -> None:
    """Against an average over other draws, for two pixels' worth of many thousands."""
    torch.manual_seed(0)
    images = IMAGES[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Averaged(Noisy(), draws=40_000)(images).exp()[0, 1], images)
    again = IMAGES[:1].clone().requires_grad_()
    probability = Noisy()(again.expand(40_000, -1, -1, -1)).softmax(dim=1)[:, 1].mean()
    (expected,) = torch.autograd.grad(probability, again)
    torch.testing.assert_close(gradient, expected, atol=2e-3, rtol=0)


def test_averaged_of_a_model_without_noise_is_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    torch.testing.assert_close(Averaged(model)(IMAGES), model(IMAGES).log_softmax(dim=1))
    assert Averaged(model).draws == DRAWS
