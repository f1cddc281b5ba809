"""Proof, before anything is released, that the gradients of buckets in one physical batch do not mix."""

from __future__ import annotations

import math

from torch import Tensor

from .grad_sample import BucketGradSampleModule
from .plan import PhysicalBatch

TOLERANCE = 1e-3
"""Relative difference of two gradients that are the same but for rounding in float32."""

LOW_PRECISION_TOLERANCE = 5e-2
"""The same in bfloat16 or float16, whose rounding was seen to move a gradient by up to 2e-2."""


class Rehearsal:
    """Compares a bucket's gradient beside another bucket with its gradient alone.

    The guarantee rests on every bucket's gradient depending on its own records only. With several buckets in one
    physical batch that takes a loss that is the sum or mean of one term per record, and layers that keep records
    apart. Both belong to the user, so the loader lets the user's loop do it: once with two buckets side by
    side, then with each of them alone, by an ordinary backward pass. Nothing of it is released.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        """What is wrong; None if nothing was found."""
        self.work = 0.0
        """Multiply-adds per record of a forward pass."""
        self._beside: dict[int, list[Tensor | None]] = {}

    def take(self, module: BucketGradSampleModule, batch: PhysicalBatch) -> None:
        """Take the gradients of the pair first, then those of each bucket alone."""
        scale = module.scale
        self.work = module.work
        try:
            gradients = module.collect(batch)
        except RuntimeError as error:
            self.problem = self.problem or str(error)
            return
        tolerance = LOW_PRECISION_TOLERANCE if module.low_precision else TOLERANCE
        for i, bucket in enumerate(batch.buckets):
            own = None if gradients is None else _scaled(gradients.of(i), scale)
            if len(batch.buckets) == 1:
                self.problem = self.problem or _difference(self._beside.get(bucket), own, tolerance)
            elif own is not None:
                self._beside[bucket] = own


def _scaled(gradients: list[Tensor | None], scale: float) -> list[Tensor | None]:
    return [None if g is None else g.detach().double() * scale for g in gradients]


def _difference(
    beside: list[Tensor | None] | None, alone: list[Tensor | None] | None, tolerance: float
) -> str | None:
    if beside is None or alone is None:
        return "there was no gradient of a bucket: backward() was not called on a loss of the model's output"
    length = sum(float(g.square().sum()) for g in alone if g is not None)
    apart = 0.0
    for one, two in zip(beside, alone, strict=True):
        if one is not None and two is not None:
            apart += float((one - two).square().sum())
        elif (only := two if one is None else one) is not None:
            apart += float(only.square().sum())
    if apart <= tolerance**2 * length:
        return None
    change = (apart / length) ** 0.5 if length else math.inf
    return (
        f"the gradient of a bucket changed by {change:.2g} of its norm when another bucket was in the same physical "
        "batch: the loss is not the stated sum or mean over records (loss_reduction), or it or a layer couples "
        "records"
    )
