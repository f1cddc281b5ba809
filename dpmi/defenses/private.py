"""What the differentially private defences share: their strength, and the range of their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from accountants import BucketMechanism, checks
from accountants.pld import SMALLEST_DELTA, SMALLEST_NOISE
from dpmi.data import ImageSet

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
    strength_range: ClassVar[tuple[float, float] | None] = (0.05, 20.0)
    couples_inside_buckets: ClassVar[bool] = False
    """Whether a loss that couples the records of a batch stays inside one unit."""

    noise_multiplier: float
    sampling_rate: float
    max_grad_norm: float
    delta: float

    def __post_init__(self) -> None:
        """Refuse at once what would be refused only after the data are loaded."""
        BucketMechanism(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier)
        if 0 < self.noise_multiplier < SMALLEST_NOISE:
            raise ValueError(
                f"noise_multiplier must be at least {SMALLEST_NOISE:g}, or 0 for no privacy at all, got "
                f"{self.noise_multiplier:g}"
            )
        if checks.real("max_grad_norm", self.max_grad_norm) <= 0:
            raise ValueError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
        if checks.delta(self.delta) < SMALLEST_DELTA:
            raise ValueError(f"delta must be at least {SMALLEST_DELTA:g}, got {self.delta:g}")

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse BatchNorm, by which one record changes the gradients of others."""
        found = [name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if found:
            raise ValueError(
                f"layer {found[0]!r} of the model normalizes over the batch, so that no gradient belongs to one "
                f"{self.unit}, and {self.name} can promise nothing; build the model with GroupNorm in its place, by "
                'adding "+groupnorm" to its name'
            )

    def check_beside(self, *others: Defense) -> None:
        """Refuse parts that these settings cannot be combined with."""

    def remarks_on_coupling(self) -> tuple[str, ...]:
        """What to know about a loss that couples the records of one unit."""
        return ()


def private_part(defense: Defense) -> PrivateDefense | None:
    """The differentially private part of a defence, if there is one."""
    return next((part for part in defense.parts if isinstance(part, PrivateDefense)), None)
