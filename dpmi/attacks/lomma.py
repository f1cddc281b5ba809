"""LOMMA [N.-B. Nguyen et al., "Re-thinking Model Inversion Attacks Against Deep Neural Networks", CVPR 2023].

LOMMA makes two changes to an attack with a generator. The identity loss is the negative logit instead of the
cross-entropy, averaged over the target and networks distilled from it. A regularizer draws the target's features
towards those of public images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from .base import Knowledge
from .checks import require
from .gmi import LIMIT, Gmi
from .ked_mi import KedMi
from .priors import FeatureMoments, FeatureStatistics, Prior, Surrogates
from .stages.search import Cost
from .target import Target

Regularizer = Literal["mean", "sampled"]

#: The published learning rate of LOMMA with GMI, of a mean over 60 classes; see :data:`dpmi.attacks.gmi.RATE`.
RATE = 0.02 / 60


@dataclass(frozen=True, kw_only=True)
class LogitIdentity:
    """LOMMA's identity loss, a mixin that precedes a :class:`~dpmi.attacks.latent_attack.LatentAttack` in the bases.

    Args:
        regularizer: the point to which features are drawn: their ``mean`` over public images, as in the published code,
            or a vector ``sampled`` from a normal distribution with their mean and standard deviation, as in the paper.
        feature_weight: weight of the mean squared distance from this point (1 in the paper).
        surrogates: the networks distilled from the target.
        statistics: the moments of the target's features.

    Raises:
        ValueError: a value is outside its range.
    """

    loss: ClassVar[str | None] = "logit"

    regularizer: Regularizer = "mean"
    feature_weight: float = 1.0
    surrogates: Surrogates = field(default_factory=Surrogates)
    statistics: FeatureStatistics = field(default_factory=FeatureStatistics)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the attack behind this mixin, as below
        known = get_args(Regularizer)
        require("regularizer", self.regularizer, self.regularizer in known, f"one of {known}")
        weight = self.feature_weight
        require("feature_weight", weight, 0 <= weight < float("inf"), "0 or more and finite")
        require("surrogates", self.surrogates, isinstance(self.surrogates, Surrogates), "a Surrogates")
        is_statistics = isinstance(self.statistics, FeatureStatistics)
        require("statistics", self.statistics, is_statistics, "a FeatureStatistics")

    def priors(self) -> tuple[Prior, ...]:
        """Return the GAN, the surrogates and the statistics."""
        own: tuple[Prior, ...] = super().priors()  # type: ignore[misc]
        return (*own, self.surrogates, self.statistics)

    def identity(self, target: Target, knowledge: Knowledge) -> Cost:
        """Return the cost -l_y, averaged over target and surrogates, + feature_weight * mean((h - h_reg)^2).

        h are the target's features. Equations 4 to 6 of the paper.
        """
        _, surrogates, moments = knowledge.modules
        assert isinstance(moments, FeatureMoments)
        students = list(surrogates.children())

        def cost(images: Tensor, labels: Tensor) -> Tensor:
            own, features = target.identity_and_features(images, labels)
            losses = [own, *(target.loss(student(images), labels) for student in students)]
            drawn_to = moments.mean
            if self.regularizer == "sampled":
                # One sample for all images: the sample of a class must not depend on the other classes.
                drawn_to = drawn_to + moments.std * torch.randn_like(moments.mean)
            away = (features - drawn_to).square().mean(dim=1)
            return torch.stack(losses).mean(dim=0) + self.feature_weight * away

        return cost


_NEEDS = frozenset({"logits", "features", "surrogate_models"})


@dataclass(frozen=True, kw_only=True)
class LommaGmi(LogitIdentity, Gmi):
    """GMI with LOMMA's identity loss.

    >>> import torch
    >>> from dpmi import models
    >>> from dpmi.attacks.priors import WganGP
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = LommaGmi(  # tiny; the defaults take minutes
    ...     iterations=3, prior=WganGP(steps=1, width=0.1), surrogates=Surrogates(steps=1, count=1))
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, LommaGmi.loss
    (torch.Size([3, 1, 16, 16]), 'logit')

    Args:
        iterations, learning_rate, restarts, images_per_class, prior: as for :class:`dpmi.attacks.Gmi`; the paper uses
            2400 iterations, and a learning rate of 0.02 for batches of 60 classes.
        regularizer, feature_weight, surrogates, statistics: as for :class:`LogitIdentity`.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "lomma-gmi"
    requires: ClassVar[frozenset[str]] = Gmi.requires | _NEEDS

    iterations: int = 2400
    learning_rate: float = RATE


@dataclass(frozen=True, kw_only=True)
class LommaKedMi(LogitIdentity, KedMi):
    """KED-MI with LOMMA's identity loss, and every sample clamped to [-1, 1] before the generator, as published.

    >>> import torch
    >>> from dpmi import models
    >>> from dpmi.attacks.priors import InversionGan
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = LommaKedMi(  # tiny; the defaults take minutes
    ...     iterations=3, images_per_class=2, prior=InversionGan(steps=1, width=0.1),
    ...     surrogates=Surrogates(steps=1, count=1))
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, LommaKedMi.limit
    (torch.Size([6, 1, 16, 16]), 1.0)

    Args:
        iterations, learning_rate, log_variance, images_per_class, prior: as for :class:`dpmi.attacks.KedMi`.
        regularizer, feature_weight, surrogates, statistics: as for :class:`LogitIdentity`.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "lomma-ked-mi"
    requires: ClassVar[frozenset[str]] = KedMi.requires | _NEEDS
    limit: ClassVar[float | None] = LIMIT
