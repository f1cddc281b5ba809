"""BREP-MI on a target whose classes are known regions of the latent space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import BrepMi, Budget, Knowledge, LabelsOnly, Reconstructions, Target, Task
from dpmi.attacks.priors import Gan, Generator
from dpmi.attacks.stages.latents import Noise

SHAPE = (1, 1, 2)


class _Shows(Generator):
    """An image is its latent, from [-1.5, 1.5] to [0, 1]."""

    def __init__(self) -> None:
        super().__init__(2, SHAPE)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return ((latents + 1.5) / 3).clamp(0, 1).view(-1, *SHAPE)


class _Halves(nn.Module):
    """Class 0 left of -0.5, class 1 right of it, class 2 nowhere."""

    def forward(self, images: Tensor) -> Tensor:
        x = 3 * images[:, 0, 0, 0] - 1.5 + 0.5
        return torch.stack([-x, x, torch.full_like(x, -10.0)], dim=1)


KNOWLEDGE = Knowledge(torch.zeros(0, *SHAPE), (Gan(_Shows(), nn.Identity()),))


def _run(attack: BrepMi, classes: list[int], budget: Budget | None = None) -> Reconstructions:
    return attack.run(
        LabelsOnly(_Halves()),
        torch.tensor(classes),
        image_shape=SHAPE,
        generator=torch.Generator().manual_seed(0),
        knowledge=KNOWLEDGE,
        budget=budget,
    )


class _Latents(Generator):
    """An image is its latent."""

    def __init__(self) -> None:
        super().__init__(len(SLOPE), (1, 1, len(SLOPE)))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return latents.view(-1, 1, 1, len(SLOPE))


class _HalfSpaces(nn.Module):
    """Class 1 where SLOPE z > -0.5, class 0 elsewhere."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1).double() @ SLOPE + 0.5
        return torch.stack([-x, x], dim=1)


SLOPE = torch.tensor([1.0, 0.5, 0.3, -0.2, 0.1, 0.1, -0.1, 0.05], dtype=torch.float64)


def _label(z: Tensor) -> int:
    return int(float(z.double() @ SLOPE) > -0.5)


def _published(z: Tensor, label: int, iterations: int) -> tuple[Tensor, list[int]]:
    """attack_single_target of the published brep_mi.py, with repulsion_only.

    Returns:
        The point at the last growth whose move stayed in the class, and the numbers of points inside at the growths.
    """
    noise = Noise(torch.tensor([label]), per_class=1, size=32 * len(z), seed=3)
    radius, kept, z, growths = 2.0, z, z.double(), []
    for _ in range(iterations):
        step = min(radius / 3, 3)
        points = noise.draw().view(32, -1).double()
        points = radius / points.square().sum(dim=1, keepdim=True).sqrt() * points
        signs = torch.tensor([1 if _label(z + p) == label else -1 for p in points])
        grows = int(signs.sum()) > 0.75 * 32
        if grows:
            radius *= 1.3
        direction = ((signs - 1) / 2)[:, None].mul(points).mean(dim=0) / radius
        new = (z + step * direction).clamp(-1.5, 1.5)
        if _label(new) != label:
            continue
        z = new
        if grows:
            kept = z
            growths.append(int((signs > 0).sum()))
    return kept, growths


def test_moves_as_published_when_the_radius_grows_too() -> None:
    iterations, labels = 40, torch.tensor([0, 1])
    drawn = torch.randn(256, len(SLOPE), generator=torch.Generator().manual_seed(3)).clamp(-1.5, 1.5)
    known = Knowledge(torch.zeros(0, 1, 1, len(SLOPE)), (Gan(_Latents(), nn.Identity()),))
    task = Task((1, 1, len(SLOPE)), known, seed=3, progress=lambda done, total: None)
    found = BrepMi(iterations=iterations)._run(Target(LabelsOnly(_HalfSpaces())), labels, task)
    for label, image in zip([0, 1], found.images, strict=True):
        start = next(z for z in drawn if _label(z) == label)
        expected, growths = _published(start, label, iterations)
        assert len(growths) > 2
        assert growths[-1] < 32, "with a point outside, the iteration of the last growth moves"
        torch.testing.assert_close(image.flatten().double(), expected, atol=1e-5, rtol=0)


def test_moves_away_from_the_border_of_its_class() -> None:
    """A sphere of radius 2 around any point of class 0 crosses the border, so the class is pushed left."""
    found = _run(BrepMi(iterations=60), [0, 1])
    x = 3 * found.images[:, 0, 0, 0] - 1.5
    assert x[0] < -1.2
    assert x[1] > 1.0
    assert found.scores.tolist() == [1.0, 1.0]
    assert not found.diverged.any()


def test_a_class_that_the_prior_does_not_show_is_given_up_and_said_so() -> None:
    with pytest.warns(UserWarning, match="no latent that the target assigns to class 2"):
        found = _run(BrepMi(iterations=5, start_batches=3), [0, 2])
    assert found.diverged.tolist() == [False, True]
    assert found.scores.tolist() == [1.0, 0.0]
    assert found.iterations[1] == 0
    # Two to see what the target is, three batches of starts, then 33 a step for one class; two scores.
    assert found.queries <= 2 + 3 * 256 + 5 * 33 + 2


def test_ends_after_so_many_moves_at_one_radius() -> None:
    found = _run(BrepMi(iterations=500, patience=3), [0])
    assert found.iterations[0] < 100


def test_ends_with_the_budget() -> None:
    found = _run(BrepMi(iterations=500), [0, 1], budget=Budget(queries=1000))
    assert found.queries <= 1000
    assert found.stopped_by == "queries"
    assert found.scores.tolist() == [1.0, 1.0]
