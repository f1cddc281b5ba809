"""The noisy number of buckets of a step that were not clipped, from which adaptive clipping learns its norm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .clipping import AdaptiveClipping
from .plan import Plan


class UnclippedCount:
    """Counts +1/2 for a bucket that was not clipped and -1/2 for one that was, with noise, in every logical step.

    Half each: one bucket replaced moves the count by 1 at most, which is twice the largest contribution, as for
    gradients.

    Args:
        clipping: the rule.
        noise: standard deviation of the count's noise.
        expected_buckets: qK, the public divisor.
        device: of the count.
    """

    def __init__(
        self, clipping: AdaptiveClipping, *, noise: float, expected_buckets: float, device: torch.device
    ) -> None:
        self._clipping = clipping
        self._noise = noise
        self._expected = expected_buckets
        self.value = torch.zeros(1, device=device)
        """The count of this rank, (1,); the ranks sum it."""

    @classmethod
    def of(cls, plan: Plan, *, device: torch.device) -> UnclippedCount | None:
        """Return the count of a run; None if its clipping does not adapt."""
        if not isinstance(plan.clipping, AdaptiveClipping):
            return None
        _, noise = plan.clipping.noises(plan.noise_multiplier, plan.expected_buckets)
        return cls(plan.clipping, noise=noise, expected_buckets=plan.expected_buckets, device=device)

    def start(self, fill: Callable[[Tensor, float], None] | None) -> None:
        """Start a logical step with noise, or with 0 on a rank that adds none."""
        self.value.zero_()
        if fill is not None:
            fill(self.value, self._noise)

    def add(self, unclipped: NDArray[np.bool_]) -> None:
        """Count buckets, bool (k,)."""
        self.value += float(np.count_nonzero(unclipped)) - len(unclipped) / 2

    def next_norm(self, max_grad_norm: float) -> float:
        """Return the norm of the next step from the released count."""
        return self._clipping.moved(max_grad_norm, float(self.value) / self._expected + 0.5)
