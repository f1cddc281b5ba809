"""KED-MI [S. Chen et al., "Knowledge-Enriched Distributional Model Inversion Attacks", ICCV 2021]."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Candidates, Task
from .checks import require
from .latent_attack import LatentAttack
from .priors import Gan, InversionGan, Prior
from .stages.distributions import DiagonalGaussian
from .target import Target

#: Weight (lambda) of the identity loss.
IDENTITY_WEIGHT = 100.0


@dataclass(frozen=True, kw_only=True)
class KedMi(LatentAttack):
    """Adam over the mean and variance of each class's latents, with a generator that was trained for the target.

    The cost of a sample z = mu + exp(logvar / 2) * eps is 100 * CE(T(G(z)), y) + softplus(D) - D [section 3.2]. Here
    D = logsumexp of the discriminator's logits is high for images that resemble the public images. The attack returns
    fresh samples of the final distribution, without selection. The published loop clamps a z that it no longer uses;
    this has no effect and is omitted.

    >>> from dpmi import models
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = KedMi(iterations=3, images_per_class=2, prior=InversionGan(steps=1, width=0.1))  # tiny
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> knowledge.queries  # its GAN learns the target's answers to the public images
    22
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.labels.tolist()
    (torch.Size([6, 1, 16, 16]), [0, 0, 1, 1, 2, 2])

    Args:
        iterations: number of steps; 2400 for faces, 5000 in BiDO's comparison on digits.
        learning_rate: learning rate of Adam.
        log_variance: initial logvar: 1 in KED-MI, 0 in BiDO's version.
        images_per_class: samples returned for each class; 5 for faces, 100 for digits.
        prior: the inversion-specific GAN; it distils the target, so each target has its own.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "ked-mi"
    requires: ClassVar[frozenset[str]] = frozenset(
        {"white_grad", "probs", "public_data", "generator", "gan_disc"}
    )
    loss: ClassVar[str | None] = "cross-entropy"
    prior_kind: ClassVar[type[Prior]] = InversionGan
    limit: ClassVar[float | None] = None
    """The generator gets samples clamped to [-limit, limit]; None means no clamp."""

    iterations: int = 2400
    learning_rate: float = 0.02
    log_variance: float = 1.0
    images_per_class: int = 5
    prior: InversionGan = field(default_factory=InversionGan)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("log_variance", self.log_variance, abs(self.log_variance) < 20, "between -20 and 20")

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        gan = task.gan
        position = DiagonalGaussian(
            gan.generator, labels, log_variance=self.log_variance, seed=task.seed, limit=self.limit
        )
        identity = self.identity(target, task.knowledge)

        def cost(images: Tensor, labels: Tensor) -> Tensor:
            return IDENTITY_WEIGHT * identity(images, labels) + realism(gan, images)

        optimizer = torch.optim.Adam(position.parameters(), lr=self.learning_rate)
        return self.draws_of(target, position, labels, cost, optimizer, task=task)


def realism(gan: Gan, images: Tensor) -> Tensor:
    """Return softplus(D) - D (n,), which is small for images that the discriminator classifies as public."""
    evidence: Tensor = gan.discriminator(images).logsumexp(dim=1)
    return F.softplus(evidence) - evidence
