"""Euclidean norms for clipping, with a bound on how much rounding can make them too small."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Number of squares that are summed in float32, before the sums are added in float64. In the worst case, with all
# roundings in one direction, the norm of 64 elements is a relative 64 * 2^-25 too small. For comparison, a float32 norm
# of a whole large tensor was observed to be 1.2e-4 too small.
_FLOAT32_RUN = 64
# From this number of elements per row on, converting to float64 costs more than two levels of summation.
_LARGE = 2**16
# What an element can lose of its square in float32: a square, a sum of squares or the argument of a root below 2^-126
# may count as 0. It is added instead of tested for, because a test would wait for the GPU. It is a relative 1e-6 of a
# norm below sqrt(n) 2e-16.
_LOST = 2.0**-124

ROUNDING = 2.0**-18
"""The rounding of a norm and that of a clipped gradient together stay below this fraction of the norm."""


def row_norms(rows: list[Tensor]) -> Tensor:
    """Return the norm of each row, over several tensors together.

    Args:
        rows: floating-point tensors (k, *shape), with the same k.

    Returns:
        (k,), float64; at most a relative ``ROUNDING`` / 4 below the true norms. Of n elements that are all tiny, a norm
        is up to sqrt(n) 2^-62 too large.
    """
    k = len(rows[0])
    flat = [row.reshape(k, -1) for row in rows]
    # For a single row, many small tensors would be many calls; `_foreach_norm` is one call for all of them.
    small = [row for row in flat if k == 1 and row.shape[1] < _LARGE]
    norms = [_norm_in_runs(row) for row in flat if k > 1 or row.shape[1] >= _LARGE]
    if small:  # an empty list has no norm
        norms.append(torch.stack(torch._foreach_norm(small, dtype=torch.float64))[None])
    total: Tensor = torch.linalg.vector_norm(torch.cat(norms, dim=1), dim=1)
    lost = _LOST * sum(row.shape[1] for row in flat if row.dtype != torch.float64)
    return torch.hypot(total, total.new_full((), math.sqrt(lost)))


def _norm_in_runs(flat: Tensor) -> Tensor:
    """Return the norms (k, 1) of (k, n): float32 over short runs, then float64 over these; as fast as float32 alone."""
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    whole = flat.shape[1] // _FLOAT32_RUN * _FLOAT32_RUN
    runs = torch.linalg.vector_norm(flat[:, :whole].reshape(len(flat), -1, _FLOAT32_RUN), dim=2)
    together = torch.cat([runs, flat[:, whole:]], dim=1)
    norm: Tensor = torch.linalg.vector_norm(together, dim=1, keepdim=True, dtype=torch.float64)
    return norm
