"""Attack accuracy: how often an evaluator assigns a reconstruction to its attacked class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Number of ranks that count for top-5.
TOP = 5


@dataclass(frozen=True, eq=False)
class AttackAccuracy:
    """Whether the evaluator recognised each reconstruction.

    For the mean of each class and the worst class, see :func:`dpmi.metrics.class_means` and
    :func:`dpmi.metrics.worst_class`.

    Args:
        top1: bool (R,), whether the class is the evaluator's first.
        top5: bool (R,), whether the class is among its first five; None if the evaluator has at most five classes.

    >>> found = AttackAccuracy(top1=torch.tensor([True, False, False, True]), top5=torch.ones(4, dtype=torch.bool))
    >>> found.mean, found.mean_top5
    (0.5, 1.0)
    """

    top1: Tensor
    top5: Tensor | None

    @property
    def mean(self) -> float:
        """The attack accuracy: the fraction of recognised reconstructions, in [0, 1]."""
        return float(self.top1.double().mean())

    @property
    def mean_top5(self) -> float:
        """The top-5 attack accuracy, in [0, 1]; NaN for an evaluator with at most five classes."""
        return math.nan if self.top5 is None else float(self.top5.double().mean())


def attack_accuracy(logits: Tensor, labels: Tensor) -> AttackAccuracy:
    """Return which reconstructions the evaluator assigns to their class.

    Classes with equal logits rank in ascending order, as in :func:`dpmi.metrics.accuracy`.

    Args:
        logits: (R, K) of the EVALUATOR, R at least 1, K at least 2, as returned by :func:`dpmi.metrics.evaluate`.
        labels: int64 (R,) in [0, K), the attacked class of each.

    Raises:
        ValueError: the shapes do not fit, a label is out of range, or the logits are not finite.

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
        raise ValueError("logits must be finite; check that the training of the evaluator converged")
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
    """Raise a ValueError for an evaluator that is the target, which would recognise every adversarial example.

    Raises:
        ValueError: one of the two is or contains the other, or all their parameters are equal.
    """
    inside = any(module is target for module in evaluator.modules()) or any(
        module is evaluator for module in target.modules()
    )
    if inside or _equal(list(evaluator.parameters()), list(target.parameters())):
        raise ValueError(
            "evaluator must be trained apart from the target; got the target itself, which would recognise every "
            "image made to fool it. Train another classifier on the private data, with another seed or architecture"
        )


def _equal(first: list[nn.Parameter], second: list[nn.Parameter]) -> bool:
    return (
        0 < len(first) == len(second)
        and all(a.shape == b.shape for a, b in zip(first, second, strict=True))
        and all(torch.equal(a.detach().cpu(), b.detach().cpu()) for a, b in zip(first, second, strict=True))
    )
