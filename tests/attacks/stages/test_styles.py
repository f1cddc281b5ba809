from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from dpmi.attacks import Budget
from dpmi.attacks.priors import StyleGenerator
from dpmi.attacks.stages.styles import StyleBox, best_styles, onto_l1_ball
from dpmi.attacks.target import Target


class _Halves(nn.Module):
    """Class 0 is bright on the left, class 1 on the right."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([images[..., :8].mean((1, 2, 3)), images[..., 8:].mean((1, 2, 3))], dim=1) * 20


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_l1_projection_is_the_nearest_point(radius: float) -> None:
    """As a solver of quadratic programs finds it, on the positive and the negative part of each entry."""
    offsets = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    found = onto_l1_ball(offsets, radius).flatten(1).double().numpy()
    for row, point in zip(offsets.flatten(1).double().numpy(), found, strict=True):
        solved = minimize(
            lambda parts, row=row: ((parts[:6] - parts[6:] - row) ** 2).sum(),
            np.zeros(12),
            bounds=[(0, None)] * 12,
            constraints={"type": "ineq", "fun": lambda parts: radius - parts.sum()},
            tol=1e-12,
        )
        np.testing.assert_allclose(point, solved.x[:6] - solved.x[6:], atol=1e-4)


def test_l1_projection_leaves_what_is_inside() -> None:
    offsets = torch.tensor([[0.2, -0.3, 0.0]])
    assert torch.equal(onto_l1_ball(offsets, 1.0), offsets)


def test_style_box_is_one_deviation_around_the_mean_of_what_is_normal(generator: StyleGenerator) -> None:
    box = StyleBox(generator, seed=0)
    w = generator.mapping(torch.randn(20_000, 4))[:, 0]
    normal = torch.where(w < 0, 5 * w, w)
    low, high = normal.mean(0) - normal.std(0), normal.mean(0) + normal.std(0)
    torch.testing.assert_close(box.style(box.normal(w)), w)
    clipped = box(torch.tensor([[-100.0], [100.0]]).expand(2, 5))
    expected = torch.stack([low, high])
    torch.testing.assert_close(
        torch.where(clipped < 0, 5 * clipped, clipped), expected, atol=0.05 * float(normal.std()), rtol=0
    )
    middle = generator.mapping.w_avg * 0 + w.mean(0)
    torch.testing.assert_close(box(box(middle)), box(middle))


@pytest.mark.parametrize("mirror", [False, True])
def test_best_styles_are_those_the_target_is_surest_of(generator: StyleGenerator, mirror: bool) -> None:
    target = Target(_Halves())
    labels = torch.tensor([1, 0])
    found = best_styles(
        target, generator, labels, keep=3, candidates=300, psi=0.7, cutoff=2, mirror=mirror, seed=4
    )
    assert target.queries == 300 * (1 + mirror)
    latents = torch.randn(300, 4, generator=torch.Generator().manual_seed(4))
    whole = generator.mapping(latents)[:, 0]
    styles = generator.mapping.w_avg + 0.7 * (whole - generator.mapping.w_avg)
    # The first two of six layers are truncated, as PPA's find_initial_w truncates 8 of 18.
    images = generator.images(torch.stack([styles] * 2 + [whole] * 4, dim=1))
    sure = _Halves()(images).softmax(1)
    if mirror:
        sure = (sure + _Halves()(images.flip(3)).softmax(1)) / 2
        assert (sure - 0.5).abs().max() < 1e-5, "left and right are alike, seen from both sides"
        return
    for of_class, label in zip(found.split(3), labels.tolist(), strict=True):
        best = sure[:, label].argsort(descending=True)[:3]
        torch.testing.assert_close(of_class, styles[best])


def test_best_styles_cost_no_more_than_the_budget(generator: StyleGenerator) -> None:
    target = Target(_Halves(), budget=Budget(queries=300))
    labels = torch.tensor([0])
    found = best_styles(
        target, generator, labels, keep=2, candidates=600, psi=1.0, cutoff=8, mirror=False, seed=0
    )
    assert found.shape == (2, 5)
    assert target.queries == 256  # the next 256 would be too many, the last 88 too
    assert target.stopped_by == "queries"
