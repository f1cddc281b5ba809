"""Base class of the gradient attacks over the latents of a GAN: prior, search and selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import Optimizer

from .base import Attack, Candidates, Knowledge, Task
from .checks import at_least_one, check_rate, require
from .priors import Gan, Prior
from .stages.distributions import Distribution
from .stages.latents import Latents, Position, starting_latents
from .stages.search import Cost, final_images, search
from .stages.selection import best_rows, confidence
from .target import Target


@dataclass(frozen=True, kw_only=True)
class LatentAttack(Attack):
    """An attack that descends on the latent vectors of a GAN, or on a distribution of them for each class.

    Args:
        iterations: number of steps.
        learning_rate: learning rate of the latents.
        images_per_class: number of images returned for each class.
        prior: the GAN, a ``prior_kind``.

    Raises:
        ValueError: a value is outside its range.
    """

    prior_kind: ClassVar[type[Prior]]

    iterations: int
    learning_rate: float
    images_per_class: int
    prior: Prior

    def __post_init__(self) -> None:
        at_least_one(self, "iterations", "images_per_class")
        check_rate(self.learning_rate)
        name = self.prior_kind.__name__
        article = "an" if name[0] in "AEIOU" else "a"
        require("prior", self.prior, isinstance(self.prior, self.prior_kind), f"{article} {name}")

    def priors(self) -> tuple[Prior, ...]:
        """Return the GAN."""
        return (self.prior,)

    def identity(self, target: Target, knowledge: Knowledge) -> Cost:
        """Return the identity cost, small for images that the target assigns to their classes."""
        return target.identity

    def start(
        self, gan: Gan, labels: Tensor, *, per_class: int, seed: int, limit: float | None = None
    ) -> Latents:
        """Return R * per_class rows of random latents; the rows of a class are adjacent.

        Args:
            gan: the GAN; its generator may be conditional on the class.
            labels: int64 (R,).
            per_class: number of rows for each class.
            seed: seed of all latents.
            limit: bound on the absolute value of a latent's entries; None for no bound.
        """
        size = gan.generator.latent_size
        start = starting_latents(labels, per_class=per_class, size=size, seed=seed)
        return Latents(gan.generator, start, labels=labels.repeat_interleave(per_class), limit=limit)

    def surest(
        self,
        target: Target,
        position: Latents,
        rows: Tensor,
        cost: Cost,
        optimizer: Optimizer,
        *,
        task: Task,
        restarts: int,
        keep_last: bool = False,
        shown: Position | None = None,
    ) -> Candidates:
        """Search from every row; return, for each image, the restart with the target's highest confidence.

        During the search the target sees the images of ``shown``, a position with the same rows, if there is one.
        """
        outcome = search(
            target,
            rows,
            shown or position,
            cost,
            optimizer,
            iterations=self.iterations,
            progress=task.progress,
            keep_last=keep_last,
        )
        images = final_images(position, len(rows))
        chosen = best_rows(-confidence(target, images, rows), candidates=restarts)
        return Candidates(images[chosen], outcome.iterations[chosen], outcome.diverged[chosen])

    def draws_of(
        self,
        target: Target,
        position: Distribution,
        labels: Tensor,
        cost: Cost,
        optimizer: Optimizer,
        *,
        task: Task,
    ) -> Candidates:
        """Search one distribution for each class and return samples of it, without selection."""
        outcome = search(
            target,
            labels,
            position,
            cost,
            optimizer,
            iterations=self.iterations,
            progress=task.progress,
            keep_last=True,
        )
        return Candidates(
            position.sample(self.images_per_class),
            outcome.iterations.repeat_interleave(self.images_per_class),
            outcome.diverged.repeat_interleave(self.images_per_class),
        )
