"""The training recipe of a classifier: number of steps, learning rate, optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from accountants import checks
from dpmi.precision import Precision, check_precision

from .augmentation import Augmentation


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Number of steps, learning rate and optimizer of a training.

    Args:
        steps: number of parameter updates T, at least 1; for a private defence, the steps charged to the budget.
        learning_rate: initial learning rate, above 0.
        batch_size: records per step, unless the defence draws the records itself.
        momentum: momentum of SGD, in [0, 1).
        schedule: "constant"; "cosine" decay to 0 at the last step of every stage; or "milestones", a factor of
            ``gamma`` at each of ``milestones``.
        optimizer: "sgd", as in [Z20], or "adam".
        average: "none", or what replaces the weights at the end of every stage: their mean over the last half of its
            steps, "tail", or a moving average, "ema"; see :mod:`dpmi.privacy.averaging`.
        weight_decay: 0 or more; that of torch's SGD or Adam, an L2 term in the gradient.
        warm_up: number of steps at the start of every stage in which the learning rate grows linearly to its first
            value, below the number of its steps.
        milestones: steps of a stage after which the learning rate falls, ascending; only for the schedule "milestones".
        gamma: the factor, in (0, 1).
        augmentation: random variants of the images, drawn anew in every step.
        precision: "float32", or "bf16": the forward pass of the model in bfloat16; see :mod:`dpmi.precision`.

    Raises:
        ValueError: a value is out of range.
    """

    steps: int
    learning_rate: float
    batch_size: int = 128
    momentum: float = 0.9
    schedule: Literal["constant", "cosine", "milestones"] = "constant"
    optimizer: Literal["sgd", "adam"] = "sgd"
    average: Literal["none", "tail", "ema"] = "none"
    weight_decay: float = 0.0
    warm_up: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    augmentation: tuple[Augmentation, ...] = ()
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, minimum=1)
        checks.integer("batch_size", self.batch_size, minimum=1)
        if checks.real("learning_rate", self.learning_rate) <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= checks.real("momentum", self.momentum) < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.schedule not in ("constant", "cosine", "milestones"):
            raise ValueError(f"schedule must be 'constant', 'cosine' or 'milestones', got {self.schedule!r}")
        if (self.schedule == "milestones") != bool(self.milestones):
            raise ValueError(
                f"schedule 'milestones' needs milestones, and no other has them; got {self.schedule!r} with "
                f"{list(self.milestones)}"
            )
        if list(self.milestones) != sorted(
            {checks.integer("milestones", each, minimum=1) for each in self.milestones}
        ):
            raise ValueError(f"milestones must be ascending and different, got {list(self.milestones)}")
        if not 0 < checks.real("gamma", self.gamma) < 1:
            raise ValueError(f"gamma must be in (0, 1), got {self.gamma}")
        if checks.real("weight_decay", self.weight_decay) < 0:
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}")
        if not checks.integer("warm_up", self.warm_up, minimum=0) < self.steps:
            raise ValueError(f"warm_up must be below the {self.steps} steps, got {self.warm_up}")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd' or 'adam', got {self.optimizer!r}")
        if self.average not in ("none", "tail", "ema"):
            raise ValueError(f"average must be 'none', 'tail' or 'ema', got {self.average!r}")
        if not all(isinstance(each, Augmentation) for each in self.augmentation):
            raise ValueError(f"augmentation must hold objects of Augmentation, got {self.augmentation!r}")
        check_precision(self.precision)

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return a new optimizer of these parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def scheduler_of(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return the schedule of a stage of :attr:`steps`, to be stepped after every update; None if it is constant."""
        left = self.steps - self.warm_up
        schedule: LRScheduler | None = None
        if self.schedule == "cosine":
            schedule = CosineAnnealingLR(optimizer, T_max=left)
        elif self.schedule == "milestones":
            later = [each - self.warm_up for each in self.milestones]
            schedule = MultiStepLR(optimizer, later, gamma=self.gamma)
        if not self.warm_up:
            return schedule
        first = LinearLR(optimizer, start_factor=1 / (self.warm_up + 1), total_iters=self.warm_up)
        rest = ConstantLR(optimizer, factor=1.0, total_iters=0) if schedule is None else schedule
        return SequentialLR(optimizer, [first, rest], milestones=[self.warm_up])
