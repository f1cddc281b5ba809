"""The loop that pixel-space attacks share: descend on all rows at once, keep the best image of each."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dpmi.attacks.base import Candidates
from dpmi.attacks.target import Target
from dpmi.progress import Progress

from .selection import best_rows

#: Progress is reported about this many times.
REPORTS = 100


class Path(Protocol):
    """The moving part of a search: n rows, one image each; rows leave when they are finished."""

    def images(self) -> Tensor:
        """Return the current images (n, C, H, W) in [0, 1]."""

    def penalty(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the cost adds to 1 - p_y, (n,), and its gradient with respect to the images."""

    def finished(self, costs: Tensor, doubts: Tensor) -> Tensor:
        """Return bool (n,): whose stop rule fires.

        Args:
            costs: (n,), of the current images.
            doubts: (n,), the same with 1 - p_y for the identity loss, whatever that is.
        """

    def step(self, gradient: Tensor) -> None:
        """Move every row, given the gradient of its cost with respect to its image."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, int64 indices into the current ones."""


def descend(
    target: Target, labels: Tensor, path: Path, *, iterations: int, restarts: int, progress: Progress
) -> Candidates:
    """Minimise identity loss + penalty for every class and restart in one batch.

    A row leaves the batch when its stop rule fires or when its cost or gradient is no longer finite; the best
    image it visited until then, the start included, is kept. Rows that left cost nothing more.

    Args:
        target: the frozen target.
        labels: int64 (R,), the classes.
        path: holds R * restarts rows, all restarts of a class next to each other.
        iterations: steps at most.
        restarts: searches per class.
        progress: called with (steps done, ``iterations``).

    Returns:
        For each class the visited image of smallest cost among its restarts.
    """
    row_labels = labels.repeat_interleave(restarts)
    best = path.images().clone()
    best_cost = torch.full_like(row_labels, torch.inf, dtype=best.dtype)
    used = torch.zeros_like(row_labels)
    diverged = torch.zeros_like(row_labels, dtype=torch.bool)
    rows = torch.arange(len(row_labels), device=labels.device)
    for done in range(iterations + 1):
        if not target.affords(queries=len(rows), grad_calls=len(rows)):
            break
        images = path.images()
        losses, of_losses, confidence = target.identity_and_gradient(images, row_labels[rows])
        added, gradient = path.penalty(images)
        costs = losses + added
        gradient = gradient + of_losses
        # A comparison with NaN is false, so an image whose cost is not finite is never kept.
        better = costs < best_cost[rows]
        # Indexed assignment copies: `images` may be the very memory that the next step overwrites.
        best[rows[better]] = images[better]
        best_cost[rows[better]] = costs[better]
        used[rows] = done
        # A sum is finite only if every term is, and costs one pass less than asking each.
        finite = (costs + gradient.flatten(1).sum(dim=1)).isfinite()
        diverged[rows[~finite]] = True
        going = finite & ~path.finished(costs, 1 - confidence + added)
        if not bool(going.all()):
            left = going.nonzero()[:, 0]
            path.keep(left)
            rows, gradient = rows[left], gradient[left]
        if len(rows) == 0 or done == iterations:
            break
        path.step(gradient)
        if done % max(1, iterations // REPORTS) == 0:
            progress(done, iterations)
    progress(iterations, iterations)
    chosen = best_rows(best_cost, candidates=restarts)
    return Candidates(images=best[chosen], iterations=used[chosen], diverged=diverged[chosen])
