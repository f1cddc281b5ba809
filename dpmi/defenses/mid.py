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
from dpmi.models import Adaptation, feature_size, observe

from .base import Defense
from .heads import NewHead, replace_head
from .objective import Batch

Evaluation = Literal["sample", "mean"]

#: softplus(raw - 5) is the standard deviation: 0.007 for raw = 0, so that training starts almost without noise.
_SHIFT = 5.0
_GAUSSIAN = "bottleneck.gaussian"
#: Records on which a trained model is measured.
_DIAGNOSED = 256


class Gaussian(nn.Module):
    """Mean and standard deviation out of what a linear layer computes.

    A layer of its own, for the penalty to observe: a forward hook on the linear layer would see its output in front of
    Opacus's backward hook, and the penalty would be missing from the gradients of records.
    """

    def forward(self, statistics: Tensor) -> Tensor:
        """From (n, 2k) to (n, 2, k)."""
        mean, raw = statistics.chunk(2, dim=1)
        return torch.stack([mean, F.softplus(raw - _SHIFT)], dim=1)


class VariationalBottleneck(nn.Module):
    """A linear layer to mean and standard deviation of a Gaussian, and one draw of it per record.

    As in Dropout, noise comes from torch's default generator, of the device that the features are on; training and
    attacks seed it, and put it back.

    Args:
        features: d, length of the input (n, d).
        size: k, length of the output (n, k).
        evaluation: whether evaluation mode draws noise as training does, as published ("sample"), or returns the
            mean ("mean").

    Attributes:
        evaluation: may be set on a trained model too: an attacker who owns the weights can take the noise out.
    """

    def __init__(self, features: int, size: int, evaluation: Evaluation = "sample") -> None:
        super().__init__()
        self.statistics = nn.Linear(features, 2 * size)
        self.gaussian = Gaussian()
        self.evaluation = evaluation

    def forward(self, features: Tensor) -> Tensor:
        """Draw."""
        gaussian: Tensor = self.gaussian(self.statistics(features))
        mean, std = gaussian.unbind(dim=1)
        if self.evaluation == "mean" and not self.training:
            return mean
        return mean + std * torch.randn_like(std)


@dataclass(frozen=True, kw_only=True)
class MID(Defense):
    """Puts a variational bottleneck in front of the head, and adds beta times what it lets through to the loss.

    What it lets through is KL(N(mean, std^2) || N(0, 1)) in nats, a bound on the mutual information of image and
    features that holds on average over the records.

    Args:
        beta: at least 0. Published: 0.003 to 0.02 on CelebA, 0.15 on CIFAR-10, 0.2 on MNIST.
        bottleneck: k, at least 1 and at most the number d of features; d / 2 if None, as published.
        evaluation: "sample", as published, or "mean": whether the released model draws noise. On a model that is
            built already, set :attr:`VariationalBottleneck.evaluation`.
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
        """Replace Linear(d -> K) by a bottleneck (d -> k) and Linear(k -> K)."""
        if not _is_built(model):
            replace_head(model, self._head)
        return model

    def _head(self, old: nn.Linear) -> nn.Module:
        size = self.bottleneck or max(1, old.in_features // 2)
        bottleneck = VariationalBottleneck(old.in_features, size, self.evaluation)
        classifier = nn.Linear(size, old.out_features)
        return NewHead(OrderedDict(bottleneck=bottleneck, classifier=classifier))

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        """The Gaussians of the bottleneck."""
        return tuple(name for name, _ in model.named_modules() if name.endswith(_GAUSSIAN))

    def penalty(self, batch: Batch) -> Tensor:
        """Mean over the records."""
        (gaussian,) = (latent for name, latent in batch.latents.items() if name.endswith(_GAUSSIAN))
        return self.beta * divergence(gaussian).mean()

    def adaptations(self) -> tuple[Adaptation, ...]:
        """The mean over its noise, and no noise at all; neither where the released model draws none."""
        if self.evaluation == "mean":
            return tuple(a for a in super().adaptations() if a.stand_in is None)
        return (*super().adaptations(), Adaptation(name="mean forward", stand_in=without_noise))

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Nats that pass the bottleneck, and the mean standard deviation of its noise."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data), generator=generator)[:_DIAGNOSED]
        images = data.images[chosen]
        names = self.observed(model, (images.shape[1], images.shape[2], images.shape[3]))
        with torch.no_grad(), observe(model, names) as latents:
            model(images)
        (gaussian,) = latents.values()
        return {
            "bottleneck_nats": float(divergence(gaussian).mean()),
            "bottleneck_std": float(gaussian[:, 1].mean()),
        }


def divergence(gaussian: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), in nats, summed over the bottleneck.

    Args:
        gaussian: (n, 2, k), means and standard deviations.

    Returns:
        (n,), each at least 0.
    """
    mean, std = gaussian.unbind(dim=1)
    return -0.5 * (1 + 2 * std.log() - mean.square() - std.square()).sum(dim=1)


def without_noise(model: nn.Module, public: Tensor) -> nn.Module:
    """A copy whose bottlenecks return their means."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, VariationalBottleneck):
            module.evaluation = "mean"
    return copy


def _is_built(model: nn.Module) -> bool:
    return any(isinstance(module, VariationalBottleneck) for module in model.modules())
