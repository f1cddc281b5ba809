"""Base class of the attacks in the w-space of a style-based generator: prior, starts and selection."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .base import Attack, Candidates
from .checks import at_least_one, require
from .priors import Prior, StyleGenerator, StylePrior
from .stages.search import Cost
from .stages.selection import best_rows
from .stages.styles import best_styles
from .stages.views import View
from .target import Target


@dataclass(frozen=True, kw_only=True)
class StyleAttack(Attack):
    """An attack that starts from the random styles with the target's highest confidence.

    Args:
        candidates: number of random styles from which the starts of all classes are selected.
        psi: truncation of the candidates towards the mean style; 1 is no truncation.
        cutoff: number of truncated layers.
        restarts: searches per image.
        images_per_class: number of images returned for each class.
        prior: the generator.

    Raises:
        ValueError: a value is outside its range.
    """

    candidates: int
    psi: float
    cutoff: int = 8
    restarts: int
    images_per_class: int
    prior: StylePrior = field(default_factory=StylePrior)

    def __post_init__(self) -> None:
        at_least_one(self, "restarts", "images_per_class")
        limit = f"at least the {self.searches} searches of a class"
        require("candidates", self.candidates, self.candidates >= self.searches, limit)
        require("psi", self.psi, 0 < self.psi <= 1, "above 0 and at most 1")
        require("cutoff", self.cutoff, self.cutoff >= 0, "at least 0")
        require("prior", self.prior, isinstance(self.prior, StylePrior), "a StylePrior")

    @property
    def searches(self) -> int:
        """Number of searches for each class."""
        return self.restarts * self.images_per_class

    def priors(self) -> tuple[Prior, ...]:
        """Return the style-based GAN."""
        return (self.prior,)

    def starts(
        self, target: Target, generator: StyleGenerator, labels: Tensor, *, seed: int, mirror: bool = False
    ) -> Tensor:
        """Return styles (R * searches, style_size); see :func:`~dpmi.attacks.stages.styles.best_styles`."""
        return best_styles(
            target,
            generator,
            labels,
            keep=self.searches,
            candidates=self.candidates,
            psi=self.psi,
            cutoff=self.cutoff,
            mirror=mirror,
            seed=seed,
        )

    def choose(self, images: Tensor, sure: Tensor, *, iterations: Tensor, diverged: Tensor) -> Candidates:
        """Return, for each class, the reconstructions with the target's highest confidence.

        Args:
            images: (R * searches, C, H, W).
            sure: (R * searches,), the target's confidence.
            iterations: int64 (R * searches,).
            diverged: bool (R * searches,).
        """
        chosen = best_rows(-sure, candidates=self.searches, keep=self.images_per_class)
        return Candidates(images[chosen], iterations[chosen], diverged[chosen])


def adam(parameters: list[Tensor], rate: float) -> torch.optim.Adam:
    """Return Adam with the betas (0.1, 0.1) of PPA."""
    return torch.optim.Adam(parameters, lr=rate, betas=(0.1, 0.1))


def seen_by(target: Target, view: View) -> Cost:
    """Return the identity loss of a random view of each image."""

    def cost(images: Tensor, labels: Tensor) -> Tensor:
        return target.identity(view(images), labels)

    return cost
