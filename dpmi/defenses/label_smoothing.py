"""Negative label smoothing ([SHK24]): the targets of the wrong classes are negative.

[SHK24] L. Struppek, D. Hintersdorf, K. Kersting, "Be Careful What You Smooth For: Label Smoothing Can Be a Privacy
Shield but Also a Catalyst for Model Inversion Attacks", ICLR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from accountants import checks
from dpmi.models import IDENTITY_LOSSES, Adaptation, matched

from .base import Defense
from .objective import Batch


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Defense):
    """Cross-entropy with the soft labels (1 - alpha) * one-hot + alpha / K.

    With negative alpha the loss has no lower bound, and the logits grow until the end of training. Published runs
    therefore start with plain cross-entropy. The smoothing factor is 0 for the fraction ``ramp_start`` of the run,
    grows as alpha * (done - ramp_start) / (1 - ramp_start) until ``ramp_end``, and is alpha after that. With the
    published fractions, it jumps from alpha / 2 to alpha at the end of the ramp, as in the published code.

    >>> import torch
    >>> images, logits = torch.zeros(1, 1, 2, 2), torch.tensor([[2.0, 0.0, 0.0]])
    >>> batch = Batch(images, torch.tensor([0]), logits, latents={}, done=0.9)
    >>> [round(LabelSmoothing(alpha=alpha).criterion(batch).item(), 3) for alpha in (-0.3, 0.3)]
    [-0.16, 0.64]

    Args:
        alpha: smoothing factor, at most 1 and not 0. Published values: -0.05 in [SHK24], -0.01 to -0.3 in [YQF25]
            Table 6.
        ramp_start: fraction of the run, in [0, 1).
        ramp_end: fraction of the run, in [ramp_start, 1]; both 0 means constant smoothing from the first update.
    """

    name: ClassVar[str] = "label-smoothing"
    strength_field: ClassVar[str | None] = "alpha"
    stronger: ClassVar[Literal["larger", "smaller"]] = "smaller"
    strength_range: ClassVar[tuple[float, float] | None] = (-1.0, -0.001)

    alpha: float
    ramp_start: float = 0.5  # epoch 50 of 100 in the code of [SHK24]
    ramp_end: float = 0.75  # epoch 75 of 100

    def __post_init__(self) -> None:
        if checks.real("alpha", self.alpha) == 0 or self.alpha > 1:
            raise ValueError(
                "alpha must be non-zero and at most 1 (use defence 'none' to train without smoothing), got "
                f"{self.alpha}"
            )
        if not 0 <= checks.real("ramp_start", self.ramp_start) < 1:
            raise ValueError(f"ramp_start must be in [0, 1), got {self.ramp_start}")
        if not self.ramp_start <= checks.real("ramp_end", self.ramp_end) <= 1:
            raise ValueError(
                f"ramp_end must be in [ramp_start, 1] = [{self.ramp_start}, 1], got {self.ramp_end}"
            )

    def smoothing(self, done: float) -> float:
        """Return the smoothing factor after this fraction of the run."""
        if done < self.ramp_start:
            return 0.0
        if done < self.ramp_end:
            return self.alpha * (done - self.ramp_start) / (1 - self.ramp_start)
        return self.alpha

    def criterion(self, batch: Batch) -> Tensor:
        """Return (1 - alpha) * -ln p_y + alpha * mean over k of -ln p_k; torch does not accept a negative alpha."""
        smoothing = self.smoothing(batch.done)
        surprise = -F.log_softmax(batch.logits, dim=1)
        of_label = surprise.gather(1, batch.labels[:, None])[:, 0]
        return (1 - smoothing) * of_label + smoothing * surprise.mean(dim=1)

    def adaptations(self) -> tuple[Adaptation, ...]:
        """Add losses with a gradient at high confidence, which negative smoothing causes."""
        if self.alpha > 0:
            return super().adaptations()
        others = (matched(f"{name} loss", IDENTITY_LOSSES[name]) for name in ("poincare", "margin"))
        return (*super().adaptations(), *others)

    def remarks(self) -> tuple[str, ...]:
        """Warn that positive smoothing is not a defence."""
        if self.alpha < 0:
            return ()
        return (
            f"alpha is {self.alpha}, and smoothing above 0 helps inversion attacks (Struppek et al., ICLR 2024); "
            "values below 0 are the defence",
        )
