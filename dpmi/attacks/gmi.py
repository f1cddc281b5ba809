"""GMI, the first model inversion attack with a generator [Y. Zhang et al., "The Secret Revealer", CVPR 2020]."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .base import Candidates, Task
from .checks import at_least_one
from .latent_attack import LatentAttack
from .priors import Prior, WganGP
from .target import Target

#: Nesterov momentum, weight (lambda) of the identity loss and bound of a latent's entries, as published.
MOMENTUM = 0.9
IDENTITY_WEIGHT = 100.0
LIMIT = 1.0

#: The published learning rate of faces, of a loss averaged over batches of 100 classes. Here no class depends on the
#: others, so each minimises its own loss, whose gradient is 100 times as long.
RATE = 0.02 / 100


@dataclass(frozen=True, kw_only=True)
class Gmi(LatentAttack):
    """Momentum descent on 100 * CE(T(G(z)), y) - D(G(z)) over latent vectors z of a WGAN [eq. 4].

    D is the critic, which is high for images that resemble the public images. Entries of z are clamped to [-1, 1] after
    each step. Each restart keeps its iterate of smallest cost; the published code keeps the last one. The attack
    returns, for each image, the restart with the target's highest confidence.

    Args:
        iterations: number of steps; 1500 in the paper, 2400 to 3000 in later comparisons.
        learning_rate: learning rate of z. The published loss is a mean over the classes of a batch, here each class
            has its own loss, so the published rates are divided by the size of their batches: 2e-4 for faces (0.02,
            100 classes), 3.3e-4 for faces in later comparisons (0.02, 60 classes), 0.002 for digits (0.01, 5 classes).
        restarts: searches per image.
        images_per_class: number of images returned for each class.
        prior: the WGAN.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "gmi"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "public_data", "generator", "gan_disc"})
    loss: ClassVar[str | None] = "cross-entropy"
    prior_kind: ClassVar[type[Prior]] = WganGP

    iterations: int = 1500
    learning_rate: float = RATE
    restarts: int = 5
    images_per_class: int = 1
    prior: WganGP = field(default_factory=WganGP)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "restarts")

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        gan = task.gan
        candidates = self.images_per_class * self.restarts
        position = self.start(gan, labels, per_class=candidates, seed=task.seed, limit=LIMIT)
        identity = self.identity(target, task.knowledge)

        def cost(images: Tensor, labels: Tensor) -> Tensor:
            likeness: Tensor = gan.discriminator(images)
            return IDENTITY_WEIGHT * identity(images, labels) - likeness

        return self.surest(
            target,
            position,
            labels.repeat_interleave(candidates),
            cost,
            torch.optim.SGD(position.parameters(), lr=self.learning_rate, momentum=MOMENTUM, nesterov=True),
            task=task,
            restarts=self.restarts,
        )
