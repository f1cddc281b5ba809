"""Algorithm 1 step by step, and what the readings of its regularizer do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Enhanced, Reconstructions
from dpmi.attacks.stages.regularizers import bilateral_total_variation

from .conftest import SHAPE


def linear(pixels: int, classes: int = 3) -> nn.Module:
    target = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
    with torch.no_grad():
        target[1].weight.normal_(generator=torch.Generator().manual_seed(0))
    return target


def algorithm_1(
    target: nn.Module, label: int, shape: tuple[int, ...], attack: Enhanced
) -> list[tuple[float, Tensor]]:
    """Cost and image of every iterate, in float64 with automatic differentiation."""
    target = target.double()
    w = torch.zeros(1, *shape, dtype=torch.float64)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    visited = []
    for _ in range(attack.iterations + 1):
        variable = w.clone().requires_grad_()
        x = (torch.tanh(variable) + 1) / 2
        penalty = x.abs().sum() if attack.regularizer == "l1" else bilateral_total_variation_of(x)
        if attack.reduction == "mean":
            penalty = penalty / x.numel()
        cost = 1 - target(x).softmax(1)[0, label] + attack.weight * penalty
        (g,) = torch.autograd.grad(cost, variable if attack.gradient == "w" else x)
        visited.append((cost.item(), x.detach()[0]))
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        w = w - attack.learning_rate * m / torch.sqrt(v + 1e-8)
    target.float()
    return visited


def bilateral_total_variation_of(x: Tensor) -> Tensor:
    """Differentiable through the written-out gradient."""
    value, gradient = bilateral_total_variation(x.detach())
    return value.sum() + (gradient * (x - x.detach())).sum()


def run(attack: Enhanced, target: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Reconstructions:
    return attack.run(target, torch.arange(3), image_shape=shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gradient", ["x", "w"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("regularizer", ["l1", "btv"])
def test_is_algorithm_1(gradient: Any, reduction: Any, regularizer: Any) -> None:
    attack = Enhanced(
        gradient=gradient, reduction=reduction, regularizer=regularizer, iterations=12, learning_rate=0.05
    )
    target = linear(64)
    recons = run(attack, target)
    for label in range(3):
        cost, image = min(algorithm_1(target, label, SHAPE, attack), key=lambda visit: visit[0])
        torch.testing.assert_close(recons.images[label].double(), image, atol=2e-4, rtol=0)
        assert math.isfinite(cost)


def test_returns_the_cheapest_image_visited() -> None:
    """Trap 1: a step size that overshoots makes the last image worse than an earlier one."""

    class Valley(nn.Module):
        """Three classes, all the surer the nearer the mean pixel is to 0.6."""

        def forward(self, images: Tensor) -> Tensor:
            bump = -30 * (images.flatten(1).mean(1) - 0.6) ** 2
            return torch.stack([bump, 2 + bump, torch.zeros_like(bump)], dim=1)

    attack = Enhanced(iterations=7, learning_rate=0.5)
    target = Valley()
    recons = run(attack, target)
    visited = algorithm_1(target, 1, SHAPE, attack)
    cheapest = min(range(8), key=lambda i: visited[i][0])
    assert cheapest < 7, "otherwise this test shows nothing"
    torch.testing.assert_close(recons.images[1].double(), visited[cheapest][1], atol=1e-3, rtol=0)


def test_starts_from_grey() -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(constant[1].weight)
    recons = run(Enhanced(weight=0.0, iterations=3), constant)
    assert (recons.images == 0.5).all()


def test_sum_over_pixels_buries_the_target() -> None:
    """Why the mean is the default: with the sum, a large image of a class costs more than a black one."""
    side = 28
    target = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 3))
    with torch.no_grad():
        # Each class lights 100 pixels, as a digit does, and a black image gets p = 1/3 from each.
        target[1].weight.zero_()
        target[1].bias.zero_()
        for label in range(3):
            target[1].weight[label, 100 * label : 100 * (label + 1)] = 0.05
    found = {
        reduction: run(Enhanced(reduction=reduction, iterations=300), target, (1, side, side))
        for reduction in ("sum", "mean")
    }
    assert found["sum"].images.max() < 0.01
    assert found["sum"].scores.max() < 0.34
    assert found["mean"].scores.min() > 0.95
    lit = torch.stack([found["mean"].images[k].flatten()[100 * k : 100 * (k + 1)] for k in range(3)])
    assert lit.mean() > 0.9
    assert found["mean"].images.sum() < 1.1 * lit.sum(), "and nothing else is lit"


def test_restarts_are_judged_by_the_target_alone() -> None:
    """Trap 21: a target with a flat region at grey is only opened by another start."""

    class Trapdoor(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            first = images.flatten(1)[:, 0]
            open_ = torch.relu((first - 0.5).abs() - 0.05) * 20
            return torch.stack([torch.zeros_like(open_), open_], dim=1)

    def score(restarts: int) -> float:
        attack = Enhanced(restarts=restarts, iterations=100, weight=1e-4)
        recons = attack.run(
            Trapdoor(), torch.tensor([1]), image_shape=SHAPE, generator=torch.Generator().manual_seed(0)
        )
        return recons.scores.item()

    # One restart more only adds candidates, for restart r starts from the same point whatever their number.
    scores = [score(restarts) for restarts in (1, 2, 4)]
    assert scores == sorted(scores)
    assert scores[-1] > 0.99


def test_fields_and_limits() -> None:
    for field, value in (
        ("weight", -0.1),
        ("weight", math.nan),
        ("learning_rate", math.inf),
        ("regularizer", "l2"),
        ("reduction", "max"),
        ("gradient", "z"),
    ):
        with pytest.raises(ValueError, match=f"{field} must be .*; got {value!r}"):
            Enhanced(**{field: value})


def test_btv_needs_an_image_larger_than_its_window() -> None:
    target = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(ValueError, match="image_shape must have sides above 2"):
        run(Enhanced(regularizer="btv", iterations=1), target, (1, 2, 8))
