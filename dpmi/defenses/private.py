"""What the differentially private defences share: their strength, and the range of their parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from accountants import BucketMechanism

from .base import Defense


@dataclass(frozen=True, kw_only=True)
class PrivateDefense(Defense):
    """Noisy, clipped gradients of one unit.

    Args:
        noise_multiplier: sigma >= 0, noise standard deviation / max_grad_norm.
        sampling_rate: q in (0, 1], the probability of drawing one unit at a step.
        max_grad_norm: S > 0.
        delta: in (0, 1), of the guarantee that is reported.
    """

    strength_field: ClassVar[str | None] = "noise_multiplier"

    noise_multiplier: float
    sampling_rate: float
    max_grad_norm: float
    delta: float

    def __post_init__(self) -> None:
        """Refuse at once what would be refused only after the data are loaded."""
        BucketMechanism(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier)
        if not (math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0):
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be a finite number above 0")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}; it must be in (0, 1)")
