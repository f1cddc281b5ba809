"""Bucket gradients that are computed for a few buckets at a time: once for the norms, and again for the weighted sum.

They are for parameters whose norm does not follow from the norms of factors: those that several layers use, and those
that other values are computed from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .factors import AT_A_TIME, full_precision, modified
from .layer import Layer
from .row_norms import row_norms
from .segments import Segments

Rows = Callable[[slice], Tensor]
"""Returns the gradient of a parameter, one row per bucket, for some consecutive buckets."""


@dataclass(frozen=True)
class RowsOfLayer:
    """The rows of a layer's weight.

    Args:
        layer: the layer.
        x: its input, (records, ...).
        g: gradient of its output, (records, ...).
        segments: the buckets.
        version: that of ``x`` in the backward pass.
    """

    layer: Layer
    x: Tensor
    g: Tensor
    segments: Segments
    version: int

    def __call__(self, buckets: slice) -> Tensor:
        """Return the rows of some buckets.

        Raises:
            RuntimeError: the input was modified since the backward pass.
        """
        if self.x._version != self.version:
            raise modified(self.x)
        bounds = self.segments.bounds
        records = slice(bounds[buckets.start], bounds[buckets.stop])
        return self.layer.weight_rows(
            self.x[records], self.g[records], Segments(self.segments.sizes[buckets])
        )


class Recomputed:
    """The gradients of one parameter, each the sum of several rows.

    The rows of a bucket are computed by the same operations for its norm and for the weighted sum, so the norm bounds
    what is released.

    Args:
        parameter: the parameter.
        num_buckets: number k of buckets.
    """

    def __init__(self, parameter: Tensor, num_buckets: int) -> None:
        self.parts: list[Rows] = []
        """What is summed."""
        self._parameter = parameter
        self._buckets = num_buckets

    @property
    def squared_norms(self) -> Tensor:
        """Squared norm of each bucket's gradient, (k,) float64."""
        return torch.cat([row_norms([self._rows(some)]) for some in self._some()]).square()

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the sum of the gradients (*shape), each multiplied by its factor, (k,)."""
        total = None
        for some in self._some():
            rows = self._rows(some)
            own = torch.mv(rows.flatten(1).T, factors[some].to(rows)).view(self._parameter.shape)
            total = own if total is None else total.add_(own)
        assert total is not None
        return total

    def _some(self) -> list[slice]:
        count = max(1, AT_A_TIME // self._parameter.numel())
        return [slice(first, min(first + count, self._buckets)) for first in range(0, self._buckets, count)]

    def _rows(self, some: slice) -> Tensor:
        with full_precision():
            first, *others = (part(some) for part in self.parts)
        return sum(others, start=first)
