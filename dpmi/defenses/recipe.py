"""The training recipe of a classifier: number of steps, learning rate, optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from accountants import checks


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Number of steps, learning rate and optimizer of a training.

    Args:
        steps: number of parameter updates T, at least 1; for a private defence, the steps charged to the budget.
        learning_rate: initial learning rate, above 0.
        batch_size: records per step, unless the defence draws the records itself.
        momentum: momentum of SGD, in [0, 1).
        schedule: "constant", or "cosine" decay to 0 at the last step of every stage.
        optimizer: "sgd", as in [Z20], or "adam".
        average: "none", or what replaces the weights at the end of every stage: their mean over the last half of its
            steps, "tail", or a moving average, "ema"; see :mod:`dpmi.privacy.averaging`.
    """

    steps: int
    learning_rate: float
    batch_size: int = 128
    momentum: float = 0.9
    schedule: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["sgd", "adam"] = "sgd"
    average: Literal["none", "tail", "ema"] = "none"

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)
        checks.integer("batch_size", self.batch_size, minimum=1)
        if checks.real("learning_rate", self.learning_rate) <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= checks.real("momentum", self.momentum) < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine', got {self.schedule!r}")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd' or 'adam', got {self.optimizer!r}")
        if self.average not in ("none", "tail", "ema"):
            raise ValueError(f"average must be 'none', 'tail' or 'ema', got {self.average!r}")

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return a new optimizer of these parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.learning_rate)
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.momentum)
