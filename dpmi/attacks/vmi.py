"""VMI [K.-C. Wang et al., "Variational Model Inversion Attacks", NeurIPS 2021]."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .base import Candidates, Task
from .checks import at_least_one, require
from .latent_attack import LatentAttack
from .priors import Prior, WganGP
from .stages.distributions import DiagonalGaussian, Distribution, Flow, FullGaussian
from .target import Target

Family = Literal["diagonal", "full", "flow"]

_FAMILIES: MappingProxyType[str, type[Distribution]] = MappingProxyType(
    {"diagonal": DiagonalGaussian, "full": FullGaussian, "flow": Flow}
)


@dataclass(frozen=True, kw_only=True)
class Vmi(LatentAttack):
    """Minimises E_q CE(T(G(z)), y) + kl_weight * KL(q || N(0, I)) over a distribution q for each class [eq. 6].

    In the paper, q is a flow over the layers of a StyleGAN, optimized by SGD with learning rate 1e-4 over hundreds of
    thousands of images. Over the latents of a small WGAN, Adam with learning rate 0.02 converges in a few hundred
    steps. The attack returns samples of the final q, without selection.

    >>> from dpmi import models
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = Vmi(iterations=3, draws=4, images_per_class=2, prior=WganGP(steps=1, width=0.1))  # tiny
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.labels.tolist()
    (torch.Size([6, 1, 16, 16]), [0, 0, 1, 1, 2, 2])

    Args:
        family: family of q: a Gaussian with a ``diagonal`` or a ``full`` covariance, or a ``flow``.
        iterations: number of steps.
        learning_rate: learning rate of Adam.
        draws: samples of each class per step; 32 to 64 in the paper.
        kl_weight: weight of the divergence in nats, of all dimensions together; 0.001 in the published code, where it
            weighs the mean over the layers of a StyleGAN.
        images_per_class: samples returned for each class (100 in the paper).
        prior: the WGAN.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "vmi"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "public_data", "generator"})
    loss: ClassVar[str | None] = "cross-entropy"
    prior_kind: ClassVar[type[Prior]] = WganGP

    family: Family = "diagonal"
    iterations: int = 500
    learning_rate: float = 0.02
    draws: int = 32
    kl_weight: float = 1e-3
    images_per_class: int = 100
    prior: WganGP = field(default_factory=WganGP)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("family", self.family, self.family in _FAMILIES, f"one of {tuple(_FAMILIES)}")
        at_least_one(self, "draws")
        require("kl_weight", self.kl_weight, 0 <= self.kl_weight < float("inf"), "0 or more and finite")

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        gan = task.gan
        position = _FAMILIES[self.family](
            gan.generator,
            labels,
            seed=task.seed,
            draws=self.draws,
            kl_weight=self.kl_weight,
        )
        optimizer = torch.optim.Adam(position.parameters(), lr=self.learning_rate)
        return self.draws_of(target, position, labels, target.identity, optimizer, task=task)
