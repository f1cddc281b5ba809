"""Attack accuracy: how often an evaluator takes a reconstruction for the class that it is meant to show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: The rank that counts for top-5.
TOP = 5


@dataclass(frozen=True, eq=False)
class AttackAccuracy:
    """Whether each reconstruction was recognised.

    For the mean of each class and the class that fares worst, see :func:`dpmi.metrics.class_means` and
    :func:`dpmi.metrics.worst_class`.

    Args:
        top1: bool (R,), the class is the evaluator's first.
        top5: bool (R,), it is among its first five; None where the evaluator knows no more than five classes, for
            then it always is.
    """

    top1: Tensor
    top5: Tensor | None

    @property
    def mean(self) -> float:
        """The fraction recognised, in [0, 1]: the attack accuracy."""
        return float(self.top1.double().mean())

    @property
    def mean_top5(self) -> float:
        """The fraction among the first five, in [0, 1]; NaN where that means nothing."""
        return math.nan if self.top5 is None else float(self.top5.double().mean())


def attack_accuracy(logits: Tensor, labels: Tensor) -> AttackAccuracy:
    """Return which reconstructions the evaluator takes for their class.

    Torchmetrics' top-5 accuracy refuses fewer than five classes, and is 100 % for five. Classes with equal logits
    rank in their order, as in :func:`dpmi.metrics.accuracy`.

    Args:
        logits: (R, K) of the EVALUATOR, R at least 1, K at least 2, as :func:`dpmi.metrics.evaluate` returns them.
        labels: int64 (R,) in [0, K), the class that each is meant to show.

    Raises:
        ValueError: shapes that do not fit, a label out of range, or logits that are not finite.

    >>> found = attack_accuracy(torch.tensor([[0.0, 1.0], [3.0, 2.0]]), torch.tensor([1, 1]))
    >>> found.mean, found.mean_top5
    (0.5, nan)
    """
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (R, K) with R at least 1 and K at least 2, and labels (R,); "
            f"got shapes {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    classes = logits.shape[1]
    if not bool(logits.isfinite().all()):
        raise ValueError("logits must be finite; there is no attack accuracy to report")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must be in [0, {classes}), the evaluator's classes; "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    own = logits.gather(1, labels[:, None])
    ahead = (logits > own) | ((logits == own) & (torch.arange(classes) < labels[:, None]))
    rank = ahead.sum(dim=1)
    return AttackAccuracy(top1=rank < 1, top5=rank < TOP if classes > TOP else None)


def check_evaluator(evaluator: nn.Module, target: nn.Module) -> None:
    """Refuse an evaluator that is the target: what fools the target fools it too, and everything looks recognised.

    Raises:
        ValueError: one is the other or has it inside, or their parameters are equal, number for number.
    """
    inside = any(module is target for module in evaluator.modules()) or any(
        module is evaluator for module in target.modules()
    )
    if inside or _equal(list(evaluator.parameters()), list(target.parameters())):
        raise ValueError(
            "evaluator must be trained apart from the target, got the target itself: it would call every image right "
            "that was made to fool it; train another classifier on the private data, with another seed or architecture"
        )


def _equal(first: list[nn.Parameter], second: list[nn.Parameter]) -> bool:
    return (
        0 < len(first) == len(second)
        and all(a.shape == b.shape for a, b in zip(first, second, strict=True))
        and all(torch.equal(a.detach().cpu(), b.detach().cpu()) for a, b in zip(first, second, strict=True))
    )
