"""LOMMA [N.-B. Nguyen et al., "Re-thinking Model Inversion Attacks Against Deep Neural Networks", CVPR 2023].

Two changes to an attack with a generator: the logit instead of the cross-entropy, averaged over the target and
networks distilled from it, and features that stay where those of public images are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from .base import Knowledge
from .checks import require
from .gmi import Gmi
from .ked_mi import KedMi
from .priors import FeatureMoments, FeatureStatistics, Prior, Surrogates
from .stages.search import Cost
from .target import Target

Regularizer = Literal["mean", "sampled"]


@dataclass(frozen=True, kw_only=True)
class LogitIdentity:
    """LOMMA's identity loss, for an attack over the latents of a GAN that stands behind it among the bases.

    Args:
        regularizer: what features are drawn to: their ``mean`` over public images, as the published code has it, or a
            vector ``sampled`` from a normal distribution of their mean and standard deviation, as the paper has it.
        feature_weight: of the mean squared distance from it (1).
        surrogates: distilled from the target.
        statistics: of the target's features.

    Raises:
        ValueError: a value outside its range.
    """

    loss: ClassVar[str | None] = "logit"

    regularizer: Regularizer = "mean"
    feature_weight: float = 1.0
    surrogates: Surrogates = field(default_factory=Surrogates)
    statistics: FeatureStatistics = field(default_factory=FeatureStatistics)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        known = get_args(Regularizer)
        require("regularizer", self.regularizer, self.regularizer in known, f"one of {known}")
        weight = self.feature_weight
        require("feature_weight", weight, 0 <= weight < float("inf"), "0 or more and finite")
        require("surrogates", self.surrogates, isinstance(self.surrogates, Surrogates), "a Surrogates")
        is_statistics = isinstance(self.statistics, FeatureStatistics)
        require("statistics", self.statistics, is_statistics, "a FeatureStatistics")

    def priors(self) -> tuple[Prior, ...]:
        """The GAN, the surrogates and the statistics."""
        own: tuple[Prior, ...] = super().priors()  # type: ignore[misc]
        return (*own, self.surrogates, self.statistics)

    def identity(self, target: Target, knowledge: Knowledge) -> Cost:
        """-l_y, the mean over target and surrogates, + feature_weight * mean((h - h_reg)^2) of the target.

        Equations 4 to 6 of the paper.
        """
        _, surrogates, moments = knowledge.modules
        assert isinstance(moments, FeatureMoments)
        students = list(surrogates.children())

        def cost(images: Tensor, labels: Tensor) -> Tensor:
            own, features = target.identity_and_features(images, labels)
            losses = [own, *(target.loss(student(images), labels) for student in students)]
            drawn_to = moments.mean
            if self.regularizer == "sampled":
                # One draw for all images: that of a class must not depend on the others.
                drawn_to = drawn_to + moments.std * torch.randn_like(moments.mean)
            away = (features - drawn_to).square().mean(dim=1)
            return torch.stack(losses).mean(dim=0) + self.feature_weight * away

        return cost


_NEEDS = frozenset({"logits", "features", "surrogate_models"})


@dataclass(frozen=True, kw_only=True)
class LommaGmi(LogitIdentity, Gmi):
    """GMI with LOMMA's identity loss.

    Args:
        iterations, learning_rate, restarts, images_per_class, prior: as for :class:`dpmi.attacks.Gmi`; the paper takes
            2400 iterations.
        regularizer, feature_weight, surrogates, statistics: as for :class:`LogitIdentity`.

    Raises:
        ValueError: a value outside its range.
    """

    name: ClassVar[str] = "lomma-gmi"
    requires: ClassVar[frozenset[str]] = Gmi.requires | _NEEDS

    iterations: int = 2400


@dataclass(frozen=True, kw_only=True)
class LommaKedMi(LogitIdentity, KedMi):
    """KED-MI with LOMMA's identity loss.

    Args:
        iterations, learning_rate, log_variance, images_per_class, prior: as for :class:`dpmi.attacks.KedMi`.
        regularizer, feature_weight, surrogates, statistics: as for :class:`LogitIdentity`.

    Raises:
        ValueError: a value outside its range.
    """

    name: ClassVar[str] = "lomma-ked-mi"
    requires: ClassVar[frozenset[str]] = KedMi.requires | _NEEDS
