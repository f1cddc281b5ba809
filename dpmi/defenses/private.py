"""What the differentially private defences share: their strength, and the range of their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from accountants import BucketMechanism, checks

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
        if checks.real("max_grad_norm", self.max_grad_norm) <= 0:
            raise ValueError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
        checks.delta(self.delta)
