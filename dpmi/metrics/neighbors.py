"""Which of many points is near: all pairs by one matrix product per block, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

#: Numbers of float64 that one block of points may hold: 1 MiB, so that it is still in the cache when it is used again.
_CHUNK = 2**17

#: Pairs of points that are held at a time: 32 MiB.
PAIRS = 2**22


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """Return ||p - o||^2 for all pairs, float64 (P, O).

    The product cancels near zero: the error is about 1e-15 of the squared norms, and small values can be negative.

    Args:
        points: float64 (P, d).
        others: float64 (O, d).
    """
    norms, other_norms = (torch.linalg.vector_norm(side, dim=1) for side in (points, others))
    return torch.addmm(norms.square()[:, None] + other_norms.square(), points, others.T, alpha=-2)


def nearest_neighbors(points: Tensor, others: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distance of each point from its nearest among some of the others, and which that is.

    Memory is bounded by a block of ``others``, whatever their number. The distance is computed from differences, so
    that of equal points is exactly 0.

    Args:
        points: (P, ...), flattened from the second axis on.
        others: (O, ...), of as many numbers each.
        among: int64 (n,), n at least 1, the indices of those that count.

    Returns:
        float64 (P,) and int64 (P,), indices of others.
    """
    flat = points.flatten(1).double()
    best = torch.full((len(flat),), torch.inf, dtype=torch.float64, device=flat.device)
    index = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    for rows in torch.split(among, max(1, _CHUNK // max(flat.shape))):
        low, where = squared_distances(flat, others[rows].flatten(1).double()).min(dim=1)
        index = torch.where(low < best, rows[where], index)
        best = torch.minimum(low, best)
    exact = torch.linalg.vector_norm(flat - others[index].flatten(1).double(), dim=1)
    return exact, index


def neighbor_distances(points: Tensor, k: int) -> Tensor:
    """Return the squared distance of each point from its k-th nearest other one, float64 (P,).

    Args:
        points: float64 (P, d), P above k.
        k: at least 1.
    """
    blocks = torch.split(points, max(1, PAIRS // len(points)))
    # The nearest of all is the point itself.
    return torch.cat([squared_distances(block, points).kthvalue(k + 1, dim=1).values for block in blocks])
