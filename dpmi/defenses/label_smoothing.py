"""Negative label smoothing ([SHK24]): wrong classes are pushed below what the label asks for.

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
    """Cross-entropy to labels (1 - alpha) * one-hot + alpha / K.

    Below 0 the loss has no lower bound, and only the end of training ends the growth of the logits: published runs
    therefore begin with plain cross-entropy. Smoothing is 0 for the fraction ``ramp_start`` of the run, grows as
    alpha * (done - ramp_start) / (1 - ramp_start) until ``ramp_end``, and is alpha from there on. With the
    published fractions, it jumps from alpha / 2 to alpha at the end of the ramp, as in the published code.

    Args:
        alpha: at most 1, and not 0. Published: -0.05 by [SHK24], -0.01 to -0.3 in Table 6 of the CALoR paper.
        ramp_start: in [0, 1), of the run.
        ramp_end: in [ramp_start, 1]; for the same smoothing from the first update on, give 0 for both.
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
                f"alpha must be at most 1, and not 0, which is no defence (take none for that), got {self.alpha}"
            )
        if not 0 <= checks.real("ramp_start", self.ramp_start) < 1:
            raise ValueError(f"ramp_start must be in [0, 1), got {self.ramp_start}")
        if not self.ramp_start <= checks.real("ramp_end", self.ramp_end) <= 1:
            raise ValueError(
                f"ramp_end must be in [ramp_start, 1] = [{self.ramp_start}, 1], got {self.ramp_end}"
            )

    def smoothing(self, done: float) -> float:
        """The factor in force when this fraction of the run is done."""
        if done < self.ramp_start:
            return 0.0
        if done < self.ramp_end:
            return self.alpha * (done - self.ramp_start) / (1 - self.ramp_start)
        return self.alpha

    def criterion(self, batch: Batch) -> Tensor:
        """(1 - alpha) * -ln p_y + alpha * mean over k of -ln p_k; torch's own takes no alpha below 0."""
        smoothing = self.smoothing(batch.done)
        surprise = -F.log_softmax(batch.logits, dim=1)
        of_label = surprise.gather(1, batch.labels[:, None])[:, 0]
        return (1 - smoothing) * of_label + smoothing * surprise.mean(dim=1)

    def adaptations(self) -> tuple[Adaptation, ...]:
        """Losses that do not vanish where the model is sure, which smoothing below 0 makes it."""
        if self.alpha > 0:
            return super().adaptations()
        others = (matched(f"{name} loss", IDENTITY_LOSSES[name]) for name in ("poincare", "margin"))
        return (*super().adaptations(), *others)

    def remarks(self) -> tuple[str, ...]:
        """Ordinary smoothing is no defence."""
        if self.alpha < 0:
            return ()
        return (
            f"alpha is {self.alpha}, and smoothing above 0 helps inversion attacks (Struppek et al., ICLR 2024); "
            "values below 0 are the defence",
        )
