"""GMI, the first inversion attack with a generator [Y. Zhang et al., "The Secret Revealer", CVPR 2020]."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .base import Attack, Candidates, Knowledge, Task
from .checks import at_least_one, check_rate, require
from .priors import Gan, Prior, WganGP
from .stages.latents import Latents, starting_latents
from .stages.search import Cost, final_images, search
from .stages.selection import best_rows, confidence
from .target import Target

#: Momentum of the published update, which is Nesterov's; lambda of its identity loss; bound of a latent's entries.
MOMENTUM = 0.9
IDENTITY_WEIGHT = 100.0
LIMIT = 1.0


@dataclass(frozen=True, kw_only=True)
class Gmi(Attack):
    """Momentum descent on 100 * CE(T(G(z)), y) - D(G(z)) over latent vectors z of a WGAN [eq. 4].

    D is the critic, which is high for what looks like the public images. Entries of z are clamped to [-1, 1]
    after each step. Of the restarts of a class that is returned of which the target is surest.

    Args:
        iterations: steps; 1500 in the paper, 2400 to 3000 in later comparisons.
        learning_rate: of z; 0.02 for faces, 0.01 for digits.
        restarts: searches per image.
        images_per_class: images to return for each class.
        prior: the WGAN.

    Raises:
        ValueError: a value outside its range.
    """

    name: ClassVar[str] = "gmi"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "public_data", "generator", "gan_disc"})
    loss: ClassVar[str | None] = "cross-entropy"

    iterations: int = 1500
    learning_rate: float = 0.02
    restarts: int = 5
    images_per_class: int = 1
    prior: WganGP = field(default_factory=WganGP)

    def __post_init__(self) -> None:
        """Check every hyper-parameter once."""
        at_least_one(self, "iterations", "restarts", "images_per_class")
        check_rate(self.learning_rate)
        require("prior", self.prior, isinstance(self.prior, WganGP), "a WganGP")

    def priors(self) -> tuple[Prior, ...]:
        """The WGAN."""
        return (self.prior,)

    def identity(self, target: Target, knowledge: Knowledge) -> Cost:
        """Return what makes the target take images for their classes; a later attack may know better."""
        return target.identity

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        gan = task.knowledge.modules[0]
        assert isinstance(gan, Gan)
        candidates = self.images_per_class * self.restarts
        rows = labels.repeat_interleave(candidates)
        start = starting_latents(labels, per_class=candidates, size=gan.generator.latent_size, seed=task.seed)
        position = Latents(gan.generator, start, limit=LIMIT)

        identity = self.identity(target, task.knowledge)

        def cost(images: Tensor, labels: Tensor) -> Tensor:
            likeness: Tensor = gan.discriminator(images)
            return IDENTITY_WEIGHT * identity(images, labels) - likeness

        outcome = search(
            target,
            rows,
            position,
            cost,
            torch.optim.SGD(position.parameters(), lr=self.learning_rate, momentum=MOMENTUM, nesterov=True),
            iterations=self.iterations,
            progress=task.progress,
        )
        images = final_images(position, len(rows))
        chosen = best_rows(-confidence(target, images, rows), candidates=self.restarts)
        return Candidates(images[chosen], outcome.iterations[chosen], outcome.diverged[chosen])
