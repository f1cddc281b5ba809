"""Nearest neighbours: the distances of all pairs by one matrix product per block, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from dpmi.data import Images

#: Maximum number of float64 values in a block of points: 1 MiB, so that the block stays in the cache.
_CHUNK = 2**17

#: Maximum number of pairs of points in memory: 32 MiB.
PAIRS = 2**22


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """Return ||p - o||^2 for all pairs, float64 (P, O).

    The error by cancellation is about 1e-15 of the squared norms, so small values can be negative.

    Args:
        points: float64 (P, d).
        others: float64 (O, d).
    """
    norms, other_norms = (torch.linalg.vector_norm(side, dim=1) for side in (points, others))
    return torch.addmm(norms.square()[:, None] + other_norms.square(), points, others.T, alpha=-2)


def nearest_neighbors(points: Tensor, others: Images, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distance of each point to its nearest neighbour among some others, and its index.

    A block of ``others`` bounds the memory. The final distance is computed from differences, so it is exactly 0 for
    equal points.

    Args:
        points: (P, ...), flattened from the second axis on.
        others: (O, ...), with the same number of values each.
        among: int64 (n,), n at least 1, the indices of the others to search.

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
    """Return the squared distance of each point to its k-th nearest neighbour, float64 (P,).

    Args:
        points: float64 (P, d), P above k.
        k: at least 1.
    """
    blocks = torch.split(points, max(1, PAIRS // len(points)))
    # k + 1, because the nearest point is the point itself.
    return torch.cat([squared_distances(block, points).kthvalue(k + 1, dim=1).values for block in blocks])
