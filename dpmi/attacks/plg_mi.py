"""PLG-MI [X. Yuan et al., "Pseudo Label-Guided Model Inversion Attack via Conditional GAN", AAAI 2023]."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .base import Candidates, Task
from .checks import at_least_one
from .latent_attack import LatentAttack
from .priors import ConditionalGan, Prior
from .stages.latents import Views
from .stages.views import Augmentation, augmentation
from .target import Target


@dataclass(frozen=True, kw_only=True)
class PlgMi(LatentAttack):
    """Adam on the max-margin loss of random views of G(z, y), G a GAN conditional on the target's labels [section 3.3].

    Args:
        iterations: number of steps (600 in the paper).
        learning_rate: learning rate of Adam (0.1 in the paper).
        views: random views of the image in each step, over which the loss is averaged (2 in the paper).
        augmentation: kind of the views, each drawn for itself: ``faces`` (crop, brightness and contrast, mirror,
            rotation), ``digits`` (the same without mirror), or ``none`` (the image itself).
        restarts: searches per image; the one with the target's highest confidence is returned.
        images_per_class: number of images returned for each class (5 in the paper).
        prior: the conditional GAN; it distils the target, so each target has its own.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "plg-mi"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "logits", "public_data", "generator"})
    loss: ClassVar[str | None] = "margin"
    prior_kind: ClassVar[type[Prior]] = ConditionalGan

    iterations: int = 600
    learning_rate: float = 0.1
    views: int = 2
    augmentation: Augmentation = "digits"
    restarts: int = 1
    images_per_class: int = 5
    prior: ConditionalGan = field(default_factory=ConditionalGan)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "views", "restarts")
        augmentation(self.augmentation)

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        candidates = self.images_per_class * self.restarts
        position = self.start(task.gan, labels, per_class=candidates, seed=task.seed)
        rows = labels.repeat_interleave(candidates)
        views = Views(
            position,
            augmentation(self.augmentation),
            labels=rows,
            per_class=candidates,
            draws=self.views,
            seed=task.seed,
        )
        return self.surest(
            target,
            position,
            rows,
            target.identity,
            torch.optim.Adam(position.parameters(), lr=self.learning_rate),
            task=task,
            restarts=self.restarts,
            keep_last=True,
            shown=views,
        )
