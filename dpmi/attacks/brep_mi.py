"""BREP-MI [M. Kahla et al., "Label-Only Model Inversion Attacks via Boundary Repulsion", CVPR 2022]."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .base import Attack, Candidates, Task
from .checks import at_least_one, require
from .priors import Generator, Prior, WganGP
from .stages.latents import Noise
from .stages.search import physical
from .target import Target

#: Published constants: initial radius, growth factor, number of directions, share of them that must be inside for the
#: radius to grow, bound of a latent's entries, and maximum length of a step.
RADIUS = 2.0
GROWTH = 1.3
DIRECTIONS = 32
INSIDE = 0.875
LIMIT = 1.5
STEP = 3.0
START_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class BrepMi(Attack):
    """Moves a latent away from the directions in which the target's label changes; needs labels only.

    For each class, the search starts at the first random latent whose image the target assigns to the class. In each
    iteration, the latent moves against the mean direction of those of 32 points on a sphere around it that are outside
    the class; a move that changes its label is rejected. If more than 87.5 % of the points are inside, the radius
    grows, and the move of this iteration is shorter by the same factor. The attack returns the image after the last
    accepted move with a growth, or after the last accepted move if there is none.

    A class for which no random latent is found is not searched: its image is that of the first latent, and it is marked
    as diverged.

    >>> from dpmi import models
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = BrepMi(iterations=3, start_batches=1, prior=WganGP(steps=1, width=0.1))  # tiny
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(
    ...     target, torch.tensor([1]), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.diverged.tolist(), recons.grad_calls
    (torch.Size([1, 1, 16, 16]), [False], 0)

    Args:
        iterations: maximum number of iterations of each class; the published code has no limit and may not terminate.
        patience: accepted moves at one radius after which a class is finished (1000 in the paper).
        start_batches: maximum number of batches of 256 random latents in the search for the starting points.
        prior: the WGAN.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "brep-mi"
    requires: ClassVar[frozenset[str]] = frozenset({"labels", "public_data", "generator"})

    iterations: int = 3000
    patience: int = 1000
    start_batches: int = 100
    prior: WganGP = field(default_factory=WganGP)

    def __post_init__(self) -> None:
        at_least_one(self, "iterations", "patience", "start_batches")
        require("prior", self.prior, isinstance(self.prior, WganGP), "a WganGP")

    def priors(self) -> tuple[Prior, ...]:
        """Return the WGAN."""
        return (self.prior,)

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        generator = task.gan.generator
        latents, found = self._starts(target, generator, labels, task.seed)
        if not bool(found.all()):
            missing = sorted(set(labels[~found].tolist()))
            warnings.warn(
                f"brep-mi found no latent that the target assigns to class {', '.join(map(str, missing))} in "
                f"{self.start_batches} batches of {START_BATCH}; the class is not attacked. Raise start_batches, or "
                "use a prior that generates this class",
                stacklevel=2,
            )
        kept, used = self._repel(target, generator, labels=labels, latents=latents, found=found, task=task)
        return Candidates(_images(generator, kept), used, ~found)

    def _starts(
        self, target: Target, generator: Generator, labels: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return, for each label, the first latent (R, d) of a common stream with this label, and whether it exists."""
        drawn = torch.Generator().manual_seed(seed)
        latents = torch.zeros(len(labels), generator.latent_size, device=labels.device)
        found = torch.zeros_like(labels, dtype=torch.bool)
        for batch in range(self.start_batches):
            if bool(found.all()) or not target.affords(queries=START_BATCH):
                break
            tried = torch.randn(START_BATCH, generator.latent_size, generator=drawn)
            tried = tried.clamp_(-LIMIT, LIMIT).to(labels.device)
            if batch == 0:
                latents[:] = tried[0]
            matches = target.labels(_images(generator, tried)) == labels[:, None]
            new = ~found & matches.any(dim=1)
            latents[new] = tried[matches[new].int().argmax(dim=1)]
            found |= new
        return latents, found

    def _repel(
        self,
        target: Target,
        generator: Generator,
        *,
        labels: Tensor,
        latents: Tensor,
        found: Tensor,
        task: Task,
    ) -> tuple[Tensor, Tensor]:
        """Return the latents (R, d) after the last growth, and the number of iterations of each class."""
        kept = latents.clone()
        radius = torch.full((len(labels), 1), RADIUS, device=labels.device)
        grown = torch.zeros_like(found)
        accepted = torch.zeros_like(labels)
        used = torch.zeros_like(labels)
        noise = Noise(labels, per_class=1, size=DIRECTIONS * latents.shape[1], seed=task.seed)
        active = found.nonzero()[:, 0]
        for done in range(self.iterations):
            if len(active) == 0 or not target.affords(queries=len(active) * (DIRECTIONS + 1)):
                break
            directions = noise.draw().view(len(labels), DIRECTIONS, -1)[active]
            directions = directions / directions.norm(dim=2, keepdim=True)
            points = latents[active, None] + radius[active, None] * directions
            asked = target_labels(target, generator, points.flatten(0, 1)).view(-1, DIRECTIONS)
            inside = asked == labels[active, None]
            grows = inside.float().mean(dim=1) > INSIDE
            step = (radius[active] / 3).clamp_max(STEP)
            before = radius[active]
            radius[active[grows]] *= GROWTH
            # The published code divides points on the sphere of this iteration by the radius of the next.
            away = -(directions * ~inside[:, :, None]).mean(dim=1) * before / radius[active]
            moved = (latents[active] + step * away).clamp(-LIMIT, LIMIT)
            stays = target_labels(target, generator, moved) == labels[active]
            latents[active[stays]] = moved[stays]
            accepted[active[stays]] += 1
            accepted[active[grows]] = 0
            grown[active[grows & stays]] = True
            # Without a growth, every accepted move is kept.
            at = active[stays & (grows | ~grown[active])]
            kept[at] = latents[at]
            used[active] = done + 1
            active = active[accepted[active] < self.patience]
            task.progress(done, self.iterations)
        task.progress(self.iterations, self.iterations)
        return kept, used


def target_labels(target: Target, generator: Generator, latents: Tensor) -> Tensor:
    """Return the label int64 (n,) of the image of each latent (n, d)."""
    return torch.cat([target.labels(_images(generator, latents[rows])) for rows in physical(len(latents))])


def _images(generator: Generator, latents: Tensor) -> Tensor:
    with torch.no_grad():
        images: Tensor = generator(latents)
    return images
