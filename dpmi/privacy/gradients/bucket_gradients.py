"""The gradients of the buckets of one physical batch: their norms, and their weighted sum."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .capture import Capture
from .row_norms import row_norms
from .running_sum import RunningSum


class BucketGradients(Protocol):
    """What a strategy hands to the optimizer: k gradients, each summed over the records of one bucket."""

    def norms(self) -> Tensor:
        """Norm of each bucket's gradient, (k,) float64, not too small by more than ``ROUNDING`` / 4."""

    def add_to(self, total: RunningSum, factors: Tensor) -> None:
        """Add every bucket's gradient times its factor, (k,) float64."""

    def of(self, i: int) -> list[Tensor | None]:
        """The gradient of one bucket, (*shape) for every parameter; None is zero."""


class Rows:
    """Gradients that are at hand, one row per bucket.

    Args:
        rows: (k, *shape) for every parameter; None where the loss did not reach it, which is zero.
    """

    def __init__(self, rows: list[Tensor | None]) -> None:
        self.rows = rows

    def norms(self) -> Tensor:
        """See :class:`BucketGradients`."""
        return row_norms([row for row in self.rows if row is not None])

    def add_to(self, total: RunningSum, factors: Tensor) -> None:
        """See :class:`BucketGradients`."""
        if len(factors) == 1:
            total.add(self.of(0), factors.item())
        else:
            total.add_rows(self.rows, factors)

    def of(self, i: int) -> list[Tensor | None]:
        """See :class:`BucketGradients`."""
        return [None if row is None else row[i] for row in self.rows]

    def scale(self, factor: float) -> None:
        """Multiply in place."""
        torch._foreach_mul_([row for row in self.rows if row is not None], factor)

    def add(self, other: Rows) -> None:
        """Add in place the gradients of other records of the same buckets."""
        for i, row in enumerate(other.rows):
            mine = self.rows[i]
            self.rows[i] = row if mine is None else mine if row is None else mine.add_(row)


class Ghost:
    """Gradients that are never made: norms layer by layer, then one weighted sum for all.

    Args:
        capture: of the physical batch.
        trained: names and parameters, in the optimizer's order.
    """

    def __init__(self, capture: Capture, trained: list[torch.nn.Parameter]) -> None:
        self._capture = capture
        self._trained = trained

    def norms(self) -> Tensor:
        """See :class:`BucketGradients`."""
        return self._capture.squared_norms.sqrt()

    def add_to(self, total: RunningSum, factors: Tensor) -> None:
        """See :class:`BucketGradients`."""
        total.add(self._weighted(factors), 1.0)

    def of(self, i: int) -> list[Tensor | None]:
        """See :class:`BucketGradients`."""
        chosen = torch.zeros(self._capture.segments.num_buckets, dtype=torch.float64)
        chosen[i] = 1.0
        return self._weighted(chosen)

    def _weighted(self, factors: Tensor) -> list[Tensor | None]:
        found = self._capture.weighted_sum(factors)
        return [found.get(p) for p in self._trained]
