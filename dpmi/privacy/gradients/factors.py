"""Bucket gradients without rows: their norms and their weighted sum, computed from smaller factors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from .row_norms import row_norms
from .segments import Run, Segments

AT_A_TIME = 2**22
"""Largest number of elements in memory at a time, of rows or of the factors of their norms: 16 MiB of float32."""

# Relative rounding error of one operation in float32.
_ROUNDING = 2.0**-24


def modified(x: Tensor) -> RuntimeError:
    """Return the error for an input of a layer that is not as it was in the backward pass."""
    return RuntimeError(
        f"the input of a layer, of shape {tuple(x.shape)}, was modified in place between backward() and the "
        'optimizer\'s step(), but grad_sample_mode="ghost" still needs it; modify a copy'
    )


class Implicit(Protocol):
    """Gradients of one parameter."""

    squared_norms: Tensor
    """Squared norm of each bucket's gradient, (k,) float64; a bound for what :meth:`weighted_sum` adds."""

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the sum of the gradients (*shape), each multiplied by its factor, (k,)."""


class OuterProducts(Protocol):
    """A layer whose gradient is a sum of outer products over positions, such as a linear layer."""

    weight: Tensor | None
    overlap: int
    """Largest number of positions that use the same element of the input."""

    def weight_rows(self, x: Tensor, g: Tensor, segments: Segments) -> Tensor:
        """Return the weight's gradient, one row per bucket."""

    def outer_factors(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the factors, (records, positions, d) and (records, positions, o); None if the layer has none."""


class Factors:
    """Sums of outer products; the factors are stored instead of a row where they are smaller.

    The gradient of a bucket with P positions is sum_i g_i x_i^T. Its squared norm is computed in the cheaper of two
    ways: as the double sum over positions of (g_i . g_j) (x_i . x_j) ([Goodfellow 2015], here for buckets), or from a
    row that is discarded at once. Terms of the double sum may cancel, so it is computed in float64. The weighted sum is
    computed in float32, where cancelling terms leave a rounding error; a bound on it, proportional to
    sum_i |g_i| |x_i|, is added to the norm. The addition is a relative 1e-6 to 1e-5 unless almost everything cancels.
    With it, the norm bounds the gradient that is actually released.

    Args:
        layer: the layer.
        x: its input, (records, ...).
        g: gradient of its output, (records, ...).
        segments: the buckets.
    """

    def __init__(self, layer: OuterProducts, x: Tensor, g: Tensor, segments: Segments) -> None:
        assert layer.weight is not None
        self._layer, self._x, self._g, self._segments = layer, x, g, segments
        self._version = x._version
        self._dtype = torch.promote_types(torch.promote_types(x.dtype, g.dtype), torch.float32)
        self._outs, self._ins = layer.weight.shape[0], layer.weight[0].numel()
        self._positions = g.numel() // (len(g) * self._outs)
        self._rows: list[tuple[Run, Tensor]] = []
        self._factored: list[Run] = []
        with full_precision():
            self.squared_norms = torch.cat([self._norms(run) for run in segments.runs()]).square()

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the sum of the gradients times their factors."""
        if self._x._version != self._version:
            raise modified(self._x)
        factors = factors.to(self._g.device, self._dtype, copy=True)
        parts = []
        for run, rows in self._rows:
            parts.append(torch.tensordot(factors[run.buckets], rows, 1))
            factors[run.buckets] = 0.0
        kept = slice(self._factored[0].records.start, self._factored[-1].records.stop)
        of_record = factors[self._segments.bucket_of_record(factors.device)][kept]
        scaled = self._g[kept] * of_record.view(-1, *[1] * (self._g.dim() - 1))
        whole = Segments([len(scaled)])
        with full_precision():
            parts.append(self._layer.weight_rows(self._x[kept].to(self._dtype), scaled, whole)[0])
        total: Tensor = sum(parts[1:], start=parts[0])
        return total

    def _norms(self, run: Run) -> Tensor:
        if rows_are_smaller(self._layer, self._x, self._g, run):
            segments = Segments([run.size] * run.count)
            rows = self._layer.weight_rows(self._x[run.records], self._g[run.records], segments)
            self._rows.append((run, rows))
            return row_norms([rows])
        self._factored.append(run)
        positions = run.size * self._positions
        in_pairs = 2 * positions * (self._outs + self._ins) < self._outs * self._ins  # float64 costs twice
        elements = positions * (self._outs + self._ins + positions) if in_pairs else self._outs * self._ins
        at_a_time = max(1, AT_A_TIME // elements)
        found = []
        for first in range(0, run.count, at_a_time):
            count = min(at_a_time, run.count - first)
            start = run.first_record + first * run.size
            records = slice(start, start + count * run.size)
            x, g = self._x[records].to(self._dtype), self._g[records].to(self._dtype)
            segments = Segments([run.size] * count)
            factors = self._layer.outer_factors(x, g) if in_pairs else None
            if factors is None:
                norms = row_norms([self._layer.weight_rows(x, g, segments)])
            else:
                norms = _norms_by_pairs(*factors, count)
            found.append(norms + self._rounding(x, g, segments, positions))
        return torch.cat(found)

    def _rounding(self, x: Tensor, g: Tensor, segments: Segments, positions: int) -> Tensor:
        """Return a bound on the error of the float32 sum over a bucket's positions, (k,) float64."""
        longest = torch.linalg.vector_norm(x.flatten(1), dim=1) * torch.linalg.vector_norm(
            g.flatten(1), dim=1
        )
        # Errors of 2.5, 4.3 and 22 units were observed for 64, 1024 and 131072 positions with worst-case inputs, whose
        # roundings all have the same sign; below 1 unit with other inputs.
        unit = _ROUNDING * (2.0 + math.sqrt(positions) / 8.0)
        return segments.sum(longest).double() * (unit * math.sqrt(self._layer.overlap))


def rows_are_smaller(layer: OuterProducts, x: Tensor, g: Tensor, run: Run) -> bool:
    """Return whether the rows of a run need no more memory than the factors; norms then cost as much as the rows."""
    assert layer.weight is not None
    return layer.weight.numel() * len(x) <= (x.numel() + g.numel()) * run.size


def factors_or_none(layer: OuterProducts, x: Tensor, g: Tensor, segments: Segments) -> Factors | None:
    """Return the factors, or None if rows are smaller for every bucket."""
    if all(rows_are_smaller(layer, x, g, run) for run in segments.runs()):
        return None
    return Factors(layer, x, g, segments)


class SparseRows:
    """Rows whose lines are mostly zero: for an embedding, a bucket's gradient has one line per distinct token.

    Args:
        line: for each value, its line within the parameter, (m,) int64.
        bucket: for each value, its bucket, (m,) int64.
        values: the values to sum per bucket and line, (m, d).
        lines: number V of lines of the parameter.
        num_buckets: number k of buckets.
    """

    def __init__(self, line: Tensor, bucket: Tensor, values: Tensor, lines: int, num_buckets: int) -> None:
        key, place = torch.unique(bucket * lines + line, return_inverse=True)
        self._bucket, self._line = key // lines, key % lines
        self._values = values.new_zeros((len(key), values.shape[1])).index_add_(0, place, values)
        self._lines = lines
        squares = torch.linalg.vector_norm(self._values, dim=1, dtype=torch.float64).square()
        self.squared_norms = squares.new_zeros(num_buckets).index_add_(0, self._bucket, squares)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the sum of the gradients times their factors."""
        scaled = self._values * factors.to(self._values)[self._bucket, None]
        return scaled.new_zeros((self._lines, scaled.shape[1])).index_add_(0, self._line, scaled)


def _norms_by_pairs(x: Tensor, g: Tensor, buckets: int) -> Tensor:
    """Return the norm (k,), in float64, of each bucket's sum of outer products of its factors."""
    left = g.reshape(buckets, -1, g.shape[-1]).double()
    right = x.reshape(buckets, -1, x.shape[-1]).double()
    pairs = torch.bmm(left, left.transpose(1, 2)).mul_(torch.bmm(right, right.transpose(1, 2)))
    return pairs.sum((1, 2)).clamp_(min=0.0).sqrt()


def _precision_settings() -> list[tuple[Any, str, object]]:
    """Return the settings for full float32 precision: objects, their attributes, and the values to set."""
    b: Any = torch.backends
    if hasattr(b.cudnn, "conv"):
        operations = [b.cuda.matmul, b.cudnn.conv, b.mkldnn.matmul, b.mkldnn.conv]
        return [(operation, "fp32_precision", "ieee") for operation in operations]
    return [(b.cuda.matmul, "allow_tf32", False), (b.cudnn, "allow_tf32", False)]  # before torch 2.9


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TF32 and similar modes; with their 10 bits, norm and weighted sum would not agree.

    Convolutions on CUDA use TF32 by default.
    """
    settings = _precision_settings()
    before = [getattr(holder, name) for holder, name, _ in settings]
    try:
        for holder, name, value in settings:
            setattr(holder, name, value)
        yield
    finally:
        for (holder, name, _), value in zip(settings, before, strict=True):
            setattr(holder, name, value)
