from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from dpmi.attacks import Budget
from dpmi.attacks.priors import StyleGenerator
from dpmi.attacks.stages.features import LayerFeatures
from dpmi.attacks.stages.styles import StyleBox, best_styles, onto_l1_ball
from dpmi.attacks.stages.views import crops
from dpmi.attacks.target import Target

ALL = slice(None)


@pytest.fixture
def generator() -> StyleGenerator:
    torch.manual_seed(0)
    made = StyleGenerator((1, 16, 16), latent_size=4, style_size=5, mapping_layers=2, channels=[6, 5, 4])
    made.mapping.w_avg.normal_()
    return made.requires_grad_(False)


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
    styles = generator.mapping(latents, 0.7)[:, 0]
    images = generator.images(generator.repeat(styles))
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


def test_features_stay_in_balls_around_where_each_search_began(generator: StyleGenerator) -> None:
    start = generator.mapping(torch.randn(3, 4))[:, 0] + 10
    position = LayerFeatures(generator, start, radius=0.5)
    assert [p.shape for p in position.parameters()] == [(3, 5)]
    images = position.images(ALL)
    torch.testing.assert_close(images, generator.images(generator.repeat(start)))
    following = position.at_next_block(radius=2.0)
    torch.testing.assert_close(following.images(ALL), images)
    styles, hidden = following.parameters()
    began = hidden.detach().clone()
    with torch.no_grad():
        styles += 3
        hidden += 3
    following.advance()
    torch.testing.assert_close((styles - start).abs().flatten(1).sum(1), torch.full((3,), 2.0))
    torch.testing.assert_close(
        (hidden - began).abs().flatten(1).sum(1), torch.full((3,), 2.0), atol=1e-3, rtol=0
    )
    last = following.at_next_block(radius=1.0)
    torch.testing.assert_close(last.images(ALL), following.images(ALL))
    assert last.parameters()[1].shape == (3, 5, 8, 8)


def test_faces_are_mirrored_and_digits_are_not() -> None:
    torch.manual_seed(0)
    image = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    whole = {
        name: [crops(name, scale=(1.0, 1.0))(image) for _ in range(20)]
        for name in ("faces", "digits", "none")  # type: ignore[misc]
    }
    for name, views in whole.items():
        mirrored = sum(torch.allclose(view, image.flip(3), atol=1e-5) for view in views)
        assert mirrored + sum(torch.allclose(view, image, atol=1e-5) for view in views) == 20
        assert (mirrored > 0) == (name == "faces")


def test_crops_keep_the_shape_and_a_share_of_the_area() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    spans = [float(v.max() - v.min()) for v in (crops("digits", scale=(0.25, 0.25))(ramp) for _ in range(9))]
    assert all(abs(span - 0.5) < 0.05 for span in spans), "a quarter of the area is half of each side"
