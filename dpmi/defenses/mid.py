"""Mutual information regularization ([WZJ21]): features pass through a noisy channel, whose capacity is penalized.

[WZJ21] T. Wang, Y. Zhang, R. Jia, "Improving Robustness to Model Inversion Attacks via Mutual Information
Regularization", AAAI 2021. The bound on the mutual information is that of A. Alemi, I. Fischer, J. Dillon,
K. Murphy, "Deep Variational Information Bottleneck", ICLR 2017.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accountants import checks
from dpmi.data import ImageSet
from dpmi.models import Adaptation, device_of, feature_size, observe

from .base import Defense
from .heads import NewHead, replace_head
from .objective import Batch

Evaluation = Literal["sample", "mean"]

#: The standard deviation is softplus(raw - 5): 0.007 for raw = 0, so that training starts almost without noise.
_SHIFT = 5.0
_GAUSSIAN = "bottleneck.gaussian"
#: Number of records for the diagnostics of a trained model.
_DIAGNOSED = 256


class Gaussian(nn.Module):
    """Mean and standard deviation from the output of a linear layer.

    The penalty observes this separate layer. A forward hook on the linear layer itself would see its output before
    Opacus's backward hook, and the per-record gradients would lack the penalty.
    """

    def forward(self, statistics: Tensor) -> Tensor:
        """Return means and standard deviations (n, 2, k) for statistics (n, 2k)."""
        mean, raw = statistics.chunk(2, dim=1)
        return torch.stack([mean, F.softplus(raw - _SHIFT)], dim=1)


class VariationalBottleneck(nn.Module):
    """A linear layer to the mean and standard deviation of a Gaussian, and one sample of it per record.

    As in Dropout, noise comes from torch's default generator of the features' device; training and attacks seed and
    restore it.

    Args:
        features: d, length of the input (n, d).
        size: k, length of the output (n, k).
        evaluation: "sample": evaluation mode draws noise like training mode, as published; "mean": evaluation mode
            returns the mean.

    Attributes:
        evaluation: can be changed on a trained model: an attacker with the weights can remove the noise.

    >>> bottleneck = VariationalBottleneck(features=64, size=8, evaluation="mean").eval()
    >>> features = torch.rand(5, 64)
    >>> bottleneck(features).shape, torch.equal(bottleneck(features), bottleneck(features))
    (torch.Size([5, 8]), True)
    >>> bottleneck.evaluation = "sample"
    >>> torch.equal(bottleneck(features), bottleneck(features))
    False
    """

    def __init__(self, features: int, size: int, evaluation: Evaluation = "sample") -> None:
        super().__init__()
        self.statistics = nn.Linear(features, 2 * size)
        self.gaussian = Gaussian()
        self.evaluation = evaluation

    def forward(self, features: Tensor) -> Tensor:
        """Return one sample (n, k) per record, or the means."""
        gaussian: Tensor = self.gaussian(self.statistics(features))
        mean, std = gaussian.unbind(dim=1)
        if self.evaluation == "mean" and not self.training:
            return mean
        return mean + std * torch.randn_like(std)


@dataclass(frozen=True, kw_only=True)
class MID(Defense):
    """Puts a variational bottleneck in front of the head, and adds beta times its information to the loss.

    The information is KL(N(mean, std^2) || N(0, 1)) in nats. Its average over the records bounds the mutual information
    between image and features.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import Recipe, train
    >>> digits = data.load("digits")
    >>> model = models.build("mlp", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> trained = train(MID(beta=0.01, bottleneck=8), model, digits.train, Recipe(steps=3, learning_rate=0.05), seed=0)
    >>> trained.model(digits.test.images[:4]).shape, list(trained.diagnostics)
    (torch.Size([4, 10]), ['bottleneck_nats', 'bottleneck_std'])

    Args:
        beta: weight, at least 0. Published values: 0.003 to 0.02 on CelebA, 0.15 on CIFAR-10, 0.2 on MNIST.
        bottleneck: size k, at least 1 and at most the number d of features; None means d / 2, as published.
        evaluation: "sample", as published: the released model draws noise; or "mean": it does not. To change a built
            model, set :attr:`VariationalBottleneck.evaluation`.
    """

    name: ClassVar[str] = "mid"
    strength_field: ClassVar[str | None] = "beta"
    strength_range: ClassVar[tuple[float, float] | None] = (0.001, 1.0)
    stochastic_forward: ClassVar[bool] = True
    changes_head: ClassVar[bool] = True

    beta: float
    bottleneck: int | None = None
    evaluation: Evaluation = "sample"

    def __post_init__(self) -> None:
        if checks.real("beta", self.beta) < 0:
            raise ValueError(f"beta must be at least 0, got {self.beta}")
        if self.bottleneck is not None:
            checks.integer("bottleneck", self.bottleneck, minimum=1)
        modes = get_args(Evaluation)
        if self.evaluation not in modes:
            raise ValueError(f"evaluation must be {' or '.join(map(repr, modes))}, got {self.evaluation!r}")

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse a bottleneck that is wider than the features."""
        if self.bottleneck is not None and not _is_built(model):
            features = feature_size(model)
            if self.bottleneck > features:
                raise ValueError(
                    f"bottleneck must be at most {features}, the features of the model, got {self.bottleneck}"
                )

    def build(self, model: nn.Module) -> nn.Module:
        """Replace the head Linear(d -> K) by a bottleneck (d -> k) and Linear(k -> K)."""
        if not _is_built(model):
            replace_head(model, self._head)
        return model

    def _head(self, old: nn.Linear) -> nn.Module:
        size = self.bottleneck or max(1, old.in_features // 2)
        bottleneck = VariationalBottleneck(old.in_features, size, self.evaluation)
        classifier = nn.Linear(size, old.out_features)
        return NewHead(OrderedDict(bottleneck=bottleneck, classifier=classifier))

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Return the layer with the Gaussians of the bottleneck."""
        return tuple(name for name, _ in model.named_modules() if name.endswith(_GAUSSIAN))

    def penalty(self, batch: Batch) -> Tensor:
        """Return beta times the mean divergence over the records."""
        (gaussian,) = (latent for name, latent in batch.latents.items() if name.endswith(_GAUSSIAN))
        return self.beta * divergence(gaussian).mean()

    def adaptations(self) -> tuple[Adaptation, ...]:
        """Add the model without its noise; if the released model draws no noise, omit all attacks on the noise."""
        if self.evaluation == "mean":
            return tuple(a for a in super().adaptations() if a.stand_in is None)
        return (*super().adaptations(), Adaptation(name="mean forward", stand_in=without_noise))

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Return the information of the bottleneck in nats, and the mean standard deviation of its noise."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data), generator=generator)[:_DIAGNOSED]
        images, _ = data.rows(chosen, device_of(model))
        names = self.observed(model, (images.shape[1], images.shape[2], images.shape[3]))
        with torch.no_grad(), observe(model, names) as latents:
            model(images)
        (gaussian,) = latents.values()
        return {
            "bottleneck_nats": float(divergence(gaussian).mean()),
            "bottleneck_std": float(gaussian[:, 1].mean()),
        }


def divergence(gaussian: Tensor) -> Tensor:
    """Return KL(N(mean, std^2) || N(0, 1)), in nats, summed over the bottleneck.

    Args:
        gaussian: (n, 2, k), means and standard deviations.

    Returns:
        (n,), each at least 0.
    """
    mean, std = gaussian.unbind(dim=1)
    return -0.5 * (1 + 2 * std.log() - mean.square() - std.square()).sum(dim=1)


def without_noise(model: nn.Module, public: Tensor) -> nn.Module:
    """Return a copy whose bottlenecks return their means."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, VariationalBottleneck):
            module.evaluation = "mean"
    return copy


def _is_built(model: nn.Module) -> bool:
    return any(isinstance(module, VariationalBottleneck) for module in model.modules())
