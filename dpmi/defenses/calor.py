"""CALoR ([YQF25]): limits the confidence, and computes the logits from a few saturated features.

[YQF25] H. Yu, Y. Qiu, H. Fang, B. Chen, S. Yu, B. Wang, S.-T. Xia, K. Xu, "CALoR: Towards Comprehensive Model
Inversion Defense". There is no published code; comments mark the choices that the paper does not specify.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accountants import checks
from dpmi.data import ImageSet
from dpmi.models import Adaptation, device_of, feature_size, in_batches, replace

from .base import Defense
from .heads import NewHead, replace_head, whole_head
from .objective import Batch

#: Number of records for the diagnostics of a trained model.
_DIAGNOSED = 256


class CompressedHead(NewHead):
    """Linear(m -> r), Tanh, Linear(r -> K), without the parts that are switched off.

    >>> from dpmi import models
    >>> model = models.build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=0)
    >>> defended = CALoR(rank=4).build(model)
    >>> [head for head in defended.modules() if isinstance(head, CompressedHead)]
    [CompressedHead(
      (compression): Linear(in_features=64, out_features=4, bias=True)
      (tanh): Tanh()
      (classifier): Linear(in_features=4, out_features=10, bias=True)
    )]
    """


@dataclass(frozen=True, kw_only=True)
class CALoR(Defense):
    """Low-rank head with Tanh, trained with cross-entropy first and fine-tuned with the confidence adaptation loss.

    The gradient of the confidence adaptation loss vanishes as the confidence goes to 0. The second stage therefore does
    not correct a record that the first stage does not classify correctly with high confidence. It costs accuracy if the
    first stage is short or the steps of the second are large. Both stages train the same architecture, as in Fig. 2;
    the paper does not specify their lengths. Each part can be switched off for ablations.

    Args:
        rank: r, at least 1 and at most the number m of features; None keeps the model's own head. A smaller rank
            protects better; the paper uses 30 to 50 for 530 people.
        bounded: whether there is a Tanh in front of the last linear layer.
        adapted: whether there is a second stage, with the confidence adaptation loss.
        loss_scale: factor a of this loss, above 0; for SGD it scales the learning rate of the second stage. The paper
            uses a = 1 with a learning rate that has decayed to a tenth by the last quarter of the run. Here each stage
            starts with the learning rate of the recipe, so the default is 0.1. With a larger value the confidence is
            closer to its aim and more records are misclassified: on MNIST (cnn, 600 updates at 0.05, two seeds), the
            accuracy falls from 0.979 and 0.981 to 0.974 and 0.973 with 0.1, and to 0.964 and 0.958 with 0.3.
        loss_exponent: b, above 0; the minimum of the loss is at the confidence exp(-1 / b), 0.88 for b = 8.
        adapted_share: the second stage's share of the updates, in (0, 1).
    """

    name: ClassVar[str] = "calor"
    strength_field: ClassVar[str | None] = "rank"
    stronger: ClassVar[Literal["larger", "smaller"]] = "smaller"
    strength_range: ClassVar[tuple[float, float] | None] = (2, 32)
    changes_head: ClassVar[bool] = True

    rank: int | None
    bounded: bool = True
    adapted: bool = True
    loss_scale: float = 0.1
    loss_exponent: float = 8.0  # [YQF25] appendix D.1
    adapted_share: float = 0.25  # not specified in the paper

    def __post_init__(self) -> None:
        if self.rank is not None:
            checks.integer("rank", self.rank, minimum=1)
        for field in ("bounded", "adapted"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} must be True or False, got {getattr(self, field)!r}")
        for field in ("loss_scale", "loss_exponent"):
            if checks.real(field, getattr(self, field)) <= 0:
                raise ValueError(f"{field} must be above 0, got {getattr(self, field)}")
        if not 0 < checks.real("adapted_share", self.adapted_share) < 1:
            raise ValueError(f"adapted_share must be in (0, 1), got {self.adapted_share}")

    @property
    def strength(self) -> float:
        """The rank; NaN if the head is not compressed."""
        return math.nan if self.rank is None else float(self.rank)

    @property
    def label(self) -> str:
        """The name, the rank and the parts that are switched off."""
        rank = "no compression" if self.rank is None else f"rank {self.rank}"
        left_out = (", no Tanh" * (not self.bounded)) + (", no adaptation" * (not self.adapted))
        return f"{self.name}, {rank}{left_out}"

    @property
    def stages(self) -> tuple[tuple[Defense, float], ...]:
        """A stage with cross-entropy, then a stage with confidence adaptation, on the same architecture."""
        if not self.adapted:
            return ((self, 1.0),)
        first = dataclasses.replace(self, adapted=False)
        return (first, 1 - self.adapted_share), (self, self.adapted_share)

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse a rank above the number of features."""
        if self.rank is not None and not _is_built(model):
            features = feature_size(model)
            if self.rank > features:
                raise ValueError(
                    f"rank must be at most {features}, the features of the model, got {self.rank}"
                )

    def build(self, model: nn.Module) -> nn.Module:
        """Replace the head; without a rank, the last linear layer keeps its weights."""
        if (self.rank is not None or self.bounded) and not _is_built(model):
            replace_head(model, self._head)
        return model

    def _head(self, old: nn.Linear) -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if self.rank is not None:
            layers["compression"] = nn.Linear(old.in_features, self.rank)
        if self.bounded:
            layers["tanh"] = nn.Tanh()
        layers["classifier"] = old if self.rank is None else nn.Linear(self.rank, old.out_features)
        return CompressedHead(layers)

    def criterion(self, batch: Batch) -> Tensor:
        """Return cross-entropy in the first stage, then equation 2, a * p_y^b * ln p_y, which is negative."""
        if not self.adapted:
            return super().criterion(batch)
        log_confidence = -F.cross_entropy(batch.logits, batch.labels, reduction="none")
        return self.loss_scale * (self.loss_exponent * log_confidence).exp() * log_confidence

    def adaptations(self) -> tuple[Adaptation, ...]:
        """Add the head without Tanh, a linear replacement of the head, and a loss matched to the trained confidence."""
        found = list(super().adaptations())
        if self.bounded:
            found.append(Adaptation(name="no Tanh", stand_in=_without_tanh))
        if self.rank is not None:
            found.append(Adaptation(name="linear head", stand_in=_with_linear_head, learns=True))
        if self.adapted:
            aim = math.exp(-1 / self.loss_exponent)
            found.append(
                Adaptation(name="matched confidence", loss=partial(distance_from_confidence, aim=aim))
            )
        return tuple(found)

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Return the mean confidence on private images, which the second stage moves towards exp(-1 / b)."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data), generator=generator)[:_DIAGNOSED]
        with torch.no_grad():
            images, labels = data.rows(chosen, device_of(model))
            losses = F.cross_entropy(model(images), labels, reduction="none")
        return {"private_confidence": float((-losses).exp().mean())}


def distance_from_confidence(logits: Tensor, labels: Tensor, *, aim: float) -> Tensor:
    """Return the binary cross-entropy (n,) between p_y and ``aim``, which is minimal at p_y = aim.

    The confidence adaptation loss has the same minimum, but its gradient vanishes far from it.

    >>> logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    >>> distance_from_confidence(logits, torch.tensor([1, 1, 1]), aim=torch.tensor(2.0).sigmoid().item()).argmin()
    tensor(1)
    """
    surprise = -logits.log_softmax(dim=1)
    of_label = surprise.gather(1, labels[:, None])[:, 0]
    of_others = -(-surprise).scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)
    return aim * of_label + (1 - aim) * of_others


def _without_tanh(model: nn.Module, public: Tensor) -> nn.Module:
    """Return a copy whose compressed head has no Tanh; the order and the signs of its features are the same."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, CompressedHead):
            module.tanh = nn.Identity()
    return copy


def _with_linear_head(model: nn.Module, public: Tensor) -> nn.Module:
    """Return a copy with a linear head, the least-squares fit to the model's logits on public images."""
    trunk = deepcopy(model)
    replace(trunk, whole_head(trunk), nn.Identity())
    features, logits = (in_batches(ask, public).flatten(1).double().cpu() for ask in (trunk, model))
    inputs = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    # A feature that is 0 for all public images makes this singular; gelsd then returns the solution of least norm.
    solution = torch.linalg.lstsq(inputs, logits, driver="gelsd").solution
    linear = nn.Linear(features.shape[1], logits.shape[1])
    with torch.no_grad():
        linear.weight.copy_(solution[:-1].T)
        linear.bias.copy_(solution[-1])
    return nn.Sequential(trunk, linear.to(public.device))


def _is_built(model: nn.Module) -> bool:
    return any(isinstance(module, CompressedHead) for module in model.modules())
