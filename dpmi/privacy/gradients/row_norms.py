"""Euclidean norms that are never too small: what clipping rests on."""

from __future__ import annotations

import torch
from torch import Tensor

# Squares that are summed in float32 before float64 takes over. At worst, all roundings in one direction, the norm
# of 64 elements comes out 64 * 2^-25 too small; a float32 norm of a whole large tensor was seen 1.2e-4 too small.
_FLOAT32_RUN = 64
# Elements of a row from which on the conversion to float64 costs more than two levels of summation.
_LARGE = 2**16
# Below it squares in float32 may underflow.
_TINY = 1e-15

ROUNDING = 2.0**-18
"""That, and the roundings of a clipped gradient itself, stay below this fraction of the norm."""


def row_norms(rows: list[Tensor]) -> Tensor:
    """Norm of each row of several tensors taken together.

    Args:
        rows: floating-point tensors (k, *shape), with the same k.

    Returns:
        (k,), float64; at most ``ROUNDING`` / 4, relatively, below the true norms.
    """
    k = len(rows[0])
    flat = [row.reshape(k, -1) for row in rows]
    # Of one row, small tensors are many calls; this takes all of them in one.
    small = [row for row in flat if k == 1 and row.shape[1] < _LARGE]
    norms = [_norm_in_runs(row) for row in flat if k > 1 or row.shape[1] >= _LARGE]
    if small:  # of an empty list there is no norm
        norms.append(torch.stack(torch._foreach_norm(small, dtype=torch.float64))[None])
    total: Tensor = torch.linalg.vector_norm(torch.cat(norms, dim=1), dim=1)
    if float(total.min()) < _TINY:
        total = torch.linalg.vector_norm(torch.cat([row.double() for row in flat], dim=1), dim=1)
    return total


def _norm_in_runs(flat: Tensor) -> Tensor:
    """Norms (k, 1) of (k, n): in float32 over short runs and in float64 over these; as fast as float32 alone."""
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    whole = flat.shape[1] // _FLOAT32_RUN * _FLOAT32_RUN
    runs = torch.linalg.vector_norm(flat[:, :whole].reshape(len(flat), -1, _FLOAT32_RUN), dim=2)
    together = torch.cat([runs, flat[:, whole:]], dim=1)
    norm: Tensor = torch.linalg.vector_norm(together, dim=1, keepdim=True, dtype=torch.float64)
    return norm
