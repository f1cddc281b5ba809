"""The gradients of the buckets of one physical batch: their norms, and their weighted sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dpmi.privacy.waits import sent

from .capture import Capture
from .row_norms import row_norms
from .running_sum import RunningSum


class BucketGradients(Protocol):
    """The result of a strategy for the optimizer: k gradients, each summed over the records of one bucket."""

    def norms(self) -> Tensor:
        """Return the norm of each bucket's gradient, (k,) float64, at most ``ROUNDING`` / 4 (relative) too small."""

    def add_to(self, total: RunningSum, factors: Tensor) -> None:
        """Add every bucket's gradient, multiplied by its factor, (k,) float64 on the CPU, to the running sum."""

    def of(self, i: int) -> list[Tensor | None]:
        """Return the gradient of one bucket, (*shape) for every parameter; None is zero."""


class Rows:
    """Gradients stored as one row per bucket.

    Args:
        rows: (k, *shape) for every parameter; None, which means zero, if the loss does not depend on the parameter.
        buckets: k, which counts only if all rows are None.
    """

    def __init__(self, rows: list[Tensor | None], *, buckets: int = 1) -> None:
        self.rows = rows
        self._buckets = buckets

    def norms(self) -> Tensor:
        """Return the norm of each bucket's gradient, (k,) float64."""
        rows = [row for row in self.rows if row is not None]
        return row_norms(rows) if rows else torch.zeros(self._buckets, dtype=torch.float64)

    def add_to(self, total: RunningSum, factors: Tensor) -> None:
        """Add every bucket's gradient times its factor to the running sum."""
        if len(factors) == 1:
            total.add(self.of(0), factors.item())
        else:
            total.add_rows(self.rows, sent(factors, _device(self.rows)))

    def of(self, i: int) -> list[Tensor | None]:
        """Return the gradient of one bucket."""
        return [None if row is None else row[i] for row in self.rows]

    def only(self, places: frozenset[int]) -> Rows:
        """Return the same rows, but zero for the parameters at all other places."""
        k = len(next(row for row in self.rows if row is not None))
        return Rows([row if i in places else None for i, row in enumerate(self.rows)], buckets=k)

    def scale(self, factor: float) -> None:
        """Multiply all gradients in place."""
        torch._foreach_mul_([row for row in self.rows if row is not None], factor)

    def add(self, other: Rows) -> None:
        """Add, in place, the gradients of other records of the same buckets."""
        for i, row in enumerate(other.rows):
            mine = self.rows[i]
            self.rows[i] = row if mine is None else mine if row is None else mine.add_(row)


class Ghost:
    """Gradients that are never stored: norms are computed layer by layer, then one weighted sum of all buckets.

    Args:
        capture: the capture of the physical batch.
        trained: the parameters, in the optimizer's order; None at a place means zero.
    """

    def __init__(self, capture: Capture, trained: Sequence[torch.nn.Parameter | None]) -> None:
        self._capture = capture
        self._trained = trained

    def norms(self) -> Tensor:
        """Return the norm of each bucket's gradient, (k,) float64."""
        return self._capture.squared_norms(p for p in self._trained if p is not None).sqrt()

    def add_to(self, total: RunningSum, factors: Tensor) -> None:
        """Add every bucket's gradient times its factor to the running sum."""
        total.add(self._weighted(factors), 1.0)

    def of(self, i: int) -> list[Tensor | None]:
        """Return the gradient of one bucket."""
        chosen = torch.zeros(self._capture.segments.num_buckets, dtype=torch.float64)
        chosen[i] = 1.0
        return list(self._weighted(chosen))

    def only(self, places: frozenset[int]) -> Ghost:
        """Return the same gradients, but zero for the parameters at all other places."""
        return Ghost(self._capture, [p if i in places else None for i, p in enumerate(self._trained)])

    def _weighted(self, factors: Tensor) -> Iterator[Tensor | None]:
        factors = sent(factors, _device(self._trained))
        for p in self._trained:
            yield None if p is None else self._capture.weighted_sum(factors, p)


def _device(tensors: Sequence[Tensor | None]) -> torch.device:
    return next((t.device for t in tensors if t is not None), torch.device("cpu"))
