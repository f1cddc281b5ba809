"""BREP-MI, side by side with the published attack_single_target: every point asked about, move and radius.

The published search has no limit on its iterations, and draws what it rejects again without end.

Modules: dpmi/attacks/brep_mi.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dpmi.attacks import BrepMi, LabelsOnly
from dpmi.attacks.priors import Gan

from .common import LIMITS, SIZE, WGAN, apart, attacked, draws, in_float64, seed_of_run, watching

PATIENCE, POINTS = 60, 32


@dataclass(frozen=True)
class Iteration:
    """The center of a sphere, the points on it, where it moves to, and whether it grows and moves."""

    center: Tensor
    points: Tensor
    moved: Tensor
    radius: float
    grows: bool
    accepted: bool


def published(
    label_of: Callable[[Tensor], Tensor], z: Tensor, label: int, noise: Callable[[], Tensor], *, limit: int
) -> tuple[list[Iteration], Tensor]:
    """The search for one class, with repulsion_only, and the point that it returns.

    Args:
        label_of: returns the target's labels of latents (n, d).
        z: the start.
        label: the class.
        noise: draws (POINTS * d,).
        limit: the most iterations.
    """
    done: list[Iteration] = []
    radius, moves, moves_at_change, at_growth = 2.0, 0, 0, None
    while moves - moves_at_change < PATIENCE and len(done) < limit:
        step, at = min(radius / 3, 3), radius
        directions = noise().view(POINTS, -1)
        directions = radius / (directions**2).sum(dim=1, keepdim=True).sqrt() * directions
        points = z + directions
        signs = torch.where(label_of(points) == label, 1.0, -1.0)
        grows = bool(signs.sum() > 0.75 * POINTS)
        if grows:
            radius *= 1.3
            moves_at_change = moves
        gradient = ((signs - 1) / 2).unsqueeze(1).mul(directions).mean(dim=0) / radius
        moved = (z + step * gradient).clamp(-1.5, 1.5)
        accepted = int(label_of(moved[None])) == label
        done.append(Iteration(z, points, moved, at, grows, accepted))
        if not accepted:
            continue
        z = moved
        if grows:
            at_growth = z
            continue
        moves += 1
    return done, z if at_growth is None else at_growth


def starts(label_of: Callable[[Tensor], Tensor], classes: list[int], size: int) -> dict[int, Tensor]:
    """gen_initial_points_targeted: the first latent of each class, in batches of 256."""
    found: dict[int, Tensor] = {}
    drawn = torch.Generator().manual_seed(seed_of_run())
    while len(found) < len(classes):
        z = torch.randn(256, size, generator=drawn).clamp(-1.5, 1.5)
        for one, label in zip(z, label_of(z).tolist(), strict=True):
            if label in classes:
                found.setdefault(label, one)
    return found


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    ("size", "classes"), [(SIZE, [3, 0, 8]), (3, [4, 0, 1])], ids=["grows", "is rejected"]
)
def test_every_point_move_and_radius_is_the_published_one(size: int, classes: list[int], limit: int) -> None:
    """Among many dimensions radii grow, among three moves leave the class."""
    attack = BrepMi(iterations=limit, patience=PATIENCE, prior=replace(WGAN, latent_size=size))
    with in_float64(*attack.priors()) as (model, known):
        (gan,) = known.modules
        assert isinstance(gan, Gan)
        with watching(gan.generator) as seen:
            found = attacked(attack, LabelsOnly(model), known, torch.tensor(classes))

        def label_of(z: Tensor) -> Tensor:
            return model(gan.generator(z)).argmax(dim=1)

        start = starts(label_of, classes, size)
        results = [
            published(label_of, start[label], label, draws(label, 0, POINTS * size), limit=limit)
            for label in classes
        ]
        searches = [done for done, _ in results]

        if limit > 1:
            growths = [sum(one.grows for one in search) for search in searches]
            rejections = [sum(not one.accepted for one in search) for search in searches]
            assert min(growths) > 2 if size == SIZE else max(rejections) > 5
            assert max(map(len, searches)) < limit, "each class ends by its patience"

        calls = iter([one for one in seen.inputs if len(one) != 256])
        for number in range(max(map(len, searches))):
            own = [search[number] for search in searches if number < len(search)]
            points = next(calls).view(len(own), POINTS, size)
            assert apart(points, torch.stack([one.points for one in own])) <= LIMITS[limit]
            center = torch.stack([one.center for one in own])
            radii = (points - center[:, None]).norm(dim=2)
            assert (
                apart(radii, torch.tensor([one.radius for one in own])[:, None].expand_as(radii))
                <= LIMITS[limit]
            )
            assert apart(next(calls), torch.stack([one.moved for one in own])) <= LIMITS[limit]
        last = torch.stack([point for _, point in results])
        assert apart(next(calls), last) <= LIMITS[limit]
        assert not list(calls)
        assert apart(found.images, gan.generator(last)) <= LIMITS[limit]
        assert found.iterations.tolist() == [len(search) for search in searches]
