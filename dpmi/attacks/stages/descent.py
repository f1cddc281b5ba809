"""The search loop of the pixel-space attacks: gradient descent on all rows at once, keeping the best image of each."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dpmi.attacks.base import Candidates
from dpmi.attacks.target import Target
from dpmi.progress import Progress

from .selection import best_rows

#: Approximate number of progress reports.
REPORTS = 100


class Path(Protocol):
    """The state of a search: n rows of one image each; finished rows are removed."""

    def images(self) -> Tensor:
        """Return the current images (n, C, H, W) in [0, 1]."""

    def penalty(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cost's term besides the identity loss (n,), and its gradient with respect to the images."""

    def finished(self, costs: Tensor, doubts: Tensor) -> Tensor:
        """Return bool (n,): the rows whose stop rule fires.

        Args:
            costs: (n,), identity loss + penalty of the current images.
            doubts: (n,), 1 - p_y + penalty, whatever the identity loss is.
        """

    def step(self, gradient: Tensor) -> None:
        """Move every row, given the gradient of its cost with respect to its image."""

    def keep(self, rows: Tensor) -> None:
        """Remove all rows except these, int64 indices into the current rows."""


def descend(
    target: Target, labels: Tensor, path: Path, *, iterations: int, restarts: int, progress: Progress
) -> Candidates:
    """Minimise identity loss + penalty for every class and restart in one batch.

    A row leaves the batch when its stop rule fires or when its cost or gradient is not finite. Its best visited image,
    the start included, is kept. Rows that left cause no further queries.

    Args:
        target: the frozen target.
        labels: int64 (R,), the classes.
        path: holds R * restarts rows; the restarts of a class are adjacent.
        iterations: maximum number of steps.
        restarts: searches per class.
        progress: called with (steps done, ``iterations``).

    Returns:
        For each class, the visited image of smallest cost among its restarts.
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
        # Indexed assignment copies, because the next step may overwrite the memory of `images`.
        best[rows[better]] = images[better]
        best_cost[rows[better]] = costs[better]
        used[rows] = done
        # The sum is finite only if every term is, and checking the sum saves one pass over the gradient.
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
