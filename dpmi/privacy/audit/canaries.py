"""Canary buckets: secret coins, and gradients along secret directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..gradients.running_sum import RunningSum
from ..partition import IntArray
from .directions import Directions

LENGTH = 1e4
"""Norm of a canary's gradient before clipping, in units of max_grad_norm: so long that automatic clipping, too, brings
it to max_grad_norm."""


@dataclass(frozen=True, eq=False)
class Coins:
    """The secret state of every canary.

    Even canaries are *in or out*, for add/remove adjacency; odd ones have a gradient in their direction or its
    opposite, for replace-one adjacency.

    Args:
        sign: (m,), 1 or 0 for even canaries, 1 or -1 for odd ones.
    """

    sign: NDArray[np.int64]

    @classmethod
    def toss(cls, canaries: int, generator: np.random.Generator) -> Coins:
        """Toss a fair coin for every canary."""
        heads = generator.integers(0, 2, canaries)
        return cls(np.where(np.arange(canaries) % 2 == 0, heads, 2 * heads - 1))

    @property
    def replaced(self) -> NDArray[np.bool_]:
        """Which canaries are coins of +-1, (m,)."""
        found: NDArray[np.bool_] = np.arange(len(self.sign)) % 2 == 1
        return found

    @property
    def heads(self) -> NDArray[np.bool_]:
        """Which canaries are in, or have their direction itself, (m,)."""
        found: NDArray[np.bool_] = self.sign == 1
        return found


class CanaryGradients:
    """The gradients of the drawn canaries of one step, as :class:`~..gradients.bucket_gradients.BucketGradients`.

    Args:
        directions: the canaries' directions.
        coins: the canaries' coins.
        step: number of the step.
        drawn: the drawn canaries, (k,).
        max_grad_norm: S.
        trained: the parameters.
    """

    def __init__(
        self,
        directions: Directions,
        coins: Coins,
        step: int,
        *,
        drawn: IntArray,
        max_grad_norm: float,
        trained: list[nn.Parameter],
    ) -> None:
        self._directions = directions
        self._step = step
        self._drawn = drawn
        self._weights = LENGTH * max_grad_norm * coins.sign[drawn]
        self._trained = trained

    def norms(self) -> Tensor:
        """Return the norm of each canary's gradient, (k,) float64; 0 for canaries that are out."""
        return torch.from_numpy(np.abs(self._weights).astype(np.float64))

    def add_to(self, total: RunningSum, factors: Tensor) -> None:
        """Add every canary's gradient times its factor, (k,) float64, to the running sum."""
        total.add(self._shaped(factors.numpy() * self._weights), 1.0)

    def of(self, i: int) -> list[Tensor | None]:
        """Return the gradient of one canary."""
        return self._shaped(np.where(np.arange(len(self._drawn)) == i, self._weights, 0.0))

    def _shaped(self, weights: NDArray[np.float64]) -> list[Tensor | None]:
        every = np.zeros(self._directions.canaries)
        every[self._drawn] = weights
        flat = self._directions.combination(self._step, every)
        parts = torch.split(flat, [p.numel() for p in self._trained])
        return [part.view(p.shape) for part, p in zip(parts, self._trained, strict=True)]
