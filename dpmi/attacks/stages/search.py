"""The search loop of the latent attacks: gradient descent on all rows at once, keeping one position of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpmi.attacks.target import Target
from dpmi.progress import Progress

from .latents import Position

#: Number of images that pass through generator and target at a time; it bounds the memory for any number of rows.
PHYSICAL_IMAGES = 256

Cost = Callable[[Tensor, Tensor], Tensor]
"""Maps images (n, C, H, W) with gradients and labels int64 (n,) to costs (n,)."""
Schedule = Callable[[float], float]
"""Maps a share of the iterations in [0, 1) to the factor of the learning rate."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a search for each row; afterwards the position object holds the kept positions.

    Args:
        costs: (n,), costs of the kept positions; infinite for a row that never had a finite cost.
        iterations: int64 (n,), number of updates up to the kept position.
        diverged: bool (n,), whether a cost or gradient was not finite; the last finite position is kept.
    """

    costs: Tensor
    iterations: Tensor
    diverged: Tensor


def search(
    target: Target,
    labels: Tensor,
    position: Position,
    cost: Cost,
    optimizer: Optimizer,
    *,
    iterations: int,
    progress: Progress,
    keep_last: bool = False,
    schedule: Schedule | None = None,
) -> Outcome:
    """Minimise the mean cost of each row's images plus its penalty.

    Rows are independent: a row whose cost or gradient is not finite stays at its last finite position, and the other
    rows continue. The search ends early when the target's budget does not cover another iteration.

    Args:
        target: the target that ``cost`` queries.
        labels: int64 (n,), one per row.
        position: the rows; the search moves them and leaves them at the kept positions.
        cost: the cost of images and their labels.
        optimizer: an element-wise optimizer of ``position.parameters()``.
        iterations: maximum number of steps.
        progress: called with (steps done, ``iterations``).
        keep_last: keep the last position instead of the one of smallest cost; for costs that are random.
        schedule: schedule of the learning rate; None means a constant rate.
    """
    parameters = position.parameters()
    kept = [p.detach().clone() for p in parameters]
    best = torch.full(labels.shape, math.inf, device=labels.device)
    used = torch.zeros_like(labels)
    diverged = torch.zeros_like(labels, dtype=torch.bool)
    rates = [group["lr"] for group in optimizer.param_groups]
    images = len(labels) * position.draws
    for done in range(iterations + 1):
        if bool(diverged.all()) or not target.affords(queries=images, grad_calls=images):
            break
        optimizer.zero_grad()
        costs = _backward(position, cost, labels)
        finite = costs.isfinite() & _finite(parameters)
        diverged |= ~finite
        better = ~diverged if keep_last else ~diverged & (costs < best)
        best = torch.where(better, costs, best)
        used[better] = done
        for old, new in zip(kept, parameters, strict=True):
            old[better] = new.detach()[better]
        if done == iterations:
            break
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (schedule(done / iterations) if schedule else 1.0)
        optimizer.step()
        position.advance()
        _put_back(parameters, kept, diverged)
        progress(done, iterations)
    _put_back(parameters, kept, torch.ones_like(diverged))
    progress(iterations, iterations)
    return Outcome(costs=best, iterations=used, diverged=diverged)


def final_images(position: Position, count: int) -> Tensor:
    """Return the images (count * draws, C, H, W) of all rows, without gradients."""
    with torch.no_grad():
        return torch.cat([position.images(rows) for rows in physical(count, position.draws)])


def physical(count: int, draws: int = 1) -> list[slice]:
    """Return slices of rows that fit into memory at once."""
    step = max(1, PHYSICAL_IMAGES // draws)
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]


def _backward(position: Position, cost: Cost, labels: Tensor) -> Tensor:
    """Return costs (n,) and add their gradients to those of the parameters."""
    costs = []
    for rows in physical(len(labels), position.draws):
        of_images = cost(position.images(rows), labels[rows].repeat_interleave(position.draws))
        total = of_images.view(-1, position.draws).mean(dim=1) + position.penalty(rows)
        # Each row has its own parameters, so the gradient of the sum contains the gradient of every row.
        total.sum().backward()  # type: ignore[no-untyped-call]
        costs.append(total.detach())
    return torch.cat(costs)


def _finite(parameters: list[Tensor]) -> Tensor:
    found = [p.grad.flatten(1).sum(dim=1).isfinite() for p in parameters if p.grad is not None]
    return torch.stack(found).all(dim=0)


def _put_back(parameters: list[Tensor], kept: list[Tensor], rows: Tensor) -> None:
    with torch.no_grad():
        for parameter, old in zip(parameters, kept, strict=True):
            parameter[rows] = old[rows]
