"""Base class of the differentially private defences: their parameters and checks."""

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
    """A defence with noisy gradients, clipped per unit.

    Args:
        noise_multiplier: sigma >= 0, noise standard deviation / max_grad_norm.
        sampling_rate: q in (0, 1], the probability with which a step draws a given unit.
        max_grad_norm: clipping norm S > 0.
        delta: delta of the reported guarantee, in (0, 1).

    >>> from dpmi.defenses import get
    >>> defense = get("record-dp")(noise_multiplier=1.1, sampling_rate=0.05, max_grad_norm=1.0)
    >>> defense.unit, defense.label, defense.delta
    ('record', 'record-dp, noise multiplier 1.1', 1e-05)
    """

    strength_field: ClassVar[str | None] = "noise_multiplier"
    strength_range: ClassVar[tuple[float, float] | None] = (0.05, 20.0)
    couples_inside_buckets: ClassVar[bool] = False
    """Whether a loss that couples records couples only records of the same unit."""
    has_canaries: ClassVar[bool] = False
    """Whether an audit can add canaries to the training; :class:`dpmi.privacy.PrivacyEngine` does."""

    noise_multiplier: float
    sampling_rate: float
    max_grad_norm: float
    delta: float

    def __post_init__(self) -> None:
        # Checked here, because the accountants would raise only after the data are loaded.
        BucketMechanism(sampling_rate=self.sampling_rate, noise_multiplier=self.noise_multiplier)
        if 0 < self.noise_multiplier < SMALLEST_NOISE:
            raise ValueError(
                f"noise_multiplier must be at least {SMALLEST_NOISE:g}, or 0 for training without privacy, got "
                f"{self.noise_multiplier:g}"
            )
        if checks.real("max_grad_norm", self.max_grad_norm) <= 0:
            raise ValueError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
        if checks.delta(self.delta) < SMALLEST_DELTA:
            raise ValueError(f"delta must be at least {SMALLEST_DELTA:g}, got {self.delta:g}")

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse a model with BatchNorm, through which a record changes the gradients of other records."""
        for name, m in model.named_modules():
            if isinstance(m, nn.modules.instancenorm._InstanceNorm) and m.track_running_stats:
                raise ValueError(
                    f"layer {name!r} of the model keeps statistics of the records, which would be released without "
                    "noise; build it with track_running_stats=False"
                )
        found = [name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if found:
            raise ValueError(
                f"layer {found[0]!r} of the model normalizes over the batch, so gradients cannot be separated by "
                f"{self.unit}, and the guarantee of {self.name} would not hold; build the model with GroupNorm "
                'instead, by adding "+groupnorm" to its name'
            )

    def check_beside(self, *others: Defense) -> None:
        """Raise a ValueError if one of the other parts cannot be combined with these settings."""

    def remarks_on_coupling(self) -> tuple[str, ...]:
        """Return caveats of a loss that couples the records of one unit."""
        return ()


def private_part(defense: Defense) -> PrivateDefense | None:
    """Return the differentially private part of a defence, if there is one.

    >>> from dpmi.defenses import CALoR, ClassDP, compose
    >>> private = ClassDP(noise_multiplier=2.0, sampling_rate=0.2, max_grad_norm=1.0)
    >>> both = compose(private, CALoR(rank=4))
    >>> both.name, private_part(both).name, private_part(CALoR(rank=4))
    ('class-dp+calor', 'class-dp', None)
    """
    return next((part for part in defense.parts if isinstance(part, PrivateDefense)), None)
