"""The confidence penalty: lower confidence of the model reveals less about its training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpmi.data import ImageSet
from dpmi.defenses import Batch, Defense


@dataclass(frozen=True, kw_only=True)
class ConfidencePenalty(Defense):
    """Subtracts the entropy of the prediction from the loss (G. Pereyra et al., ICLR 2017 workshop, eq. 3).

    Args:
        penalty_weight: beta of the paper, at least 0.
    """

    name: ClassVar[str] = "confidence-penalty"
    strength_field: ClassVar[str | None] = "penalty_weight"

    penalty_weight: float = 0.1

    def __post_init__(self) -> None:
        if not self.penalty_weight >= 0:
            raise ValueError(f"penalty_weight must be at least 0, got {self.penalty_weight!r}")

    def penalty(self, batch: Batch) -> Tensor:
        """Return the negative mean entropy, in nats, times the weight."""
        return -self.penalty_weight * _entropy(batch.logits)

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Return the mean entropy on the training set, in nats."""
        with torch.no_grad():
            return {"mean_entropy": float(_entropy(model(data.images)))}


def _entropy(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(dim=1)).sum(dim=1).mean()
