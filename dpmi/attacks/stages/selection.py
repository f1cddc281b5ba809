"""Selection: the reconstruction kept for each class is selected by the target's score alone, never by an evaluator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpmi.attacks.target import Target

from .search import physical

Transform = Callable[[Tensor], Tensor]


def best_rows(costs: Tensor, *, candidates: int, keep: int = 1) -> Tensor:
    """Return, for each class, the rows of its candidates with the smallest costs, the best first.

    Args:
        costs: (R * candidates,); the candidates of a class are adjacent; NaN is worst.
        candidates: number of candidates for each class.
        keep: number of rows kept for each class, at most ``candidates``.

    Returns:
        int64 (R * keep,), rows of ``costs``.

    >>> best_rows(torch.tensor([0.3, 0.1, 0.2, 0.2]), candidates=2)
    tensor([1, 2])
    """
    table = costs.nan_to_num(nan=torch.inf).view(-1, candidates)
    # A stable sort selects the first of equal rows on every device.
    best = table.argsort(dim=1, stable=True)[:, :keep]
    first = torch.arange(len(table), device=costs.device)[:, None] * candidates
    return (best + first).flatten()


def confidence(
    target: Target, images: Tensor, labels: Tensor, *, transform: Transform | None = None, draws: int = 1
) -> Tensor:
    """Return the mean confidence p_y (n,) over random transforms of each image; n * draws queries.

    An image that the target assigns to its class under every crop shows more of the class than an image that is
    assigned to it only as it is [SHC22, section 4.4].

    Args:
        target: the target; the number of transforms is reduced to what its budget covers. If the budget covers none,
            the result is 0.
        images: (n, C, H, W).
        labels: int64 (n,).
        transform: maps images (m, C, H, W) to images that the target accepts, randomly; None means the identity.
        draws: number of transforms of each image.
    """
    found = torch.zeros(len(images), device=images.device)
    drawn = 0
    while drawn < draws and target.affords(queries=len(images)):
        drawn += 1
        for rows in physical(len(images)):
            shown = images[rows] if transform is None else transform(images[rows])
            found[rows] += target.confidence(shown, labels[rows])
    return found / max(1, drawn)
