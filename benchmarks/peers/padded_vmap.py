"""The step by ``torch.func``, as written by hand: every user is padded, and ``vmap`` computes several at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from ..steps import Data


def padded(data: Data, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs and targets (K, longest, ...), with zeros after a user's records, and a mask (K, longest)."""
    inputs, targets, partition = data
    order, start = partition.by_bucket
    sizes = torch.as_tensor(np.diff(start))
    mask = torch.arange(longest) < sizes[:, None]
    found = [part.new_zeros(*mask.shape, *part.shape[1:]) for part in (inputs, targets)]
    for whole, part in zip(found, (inputs, targets), strict=True):
        whole[mask] = part[order]
    return found[0], found[1], mask.float()


def vmap_step(
    model: nn.Module, data: Data, longest: int, users_at_once: int, *, max_grad_norm: float, rate: float
) -> Callable[[], None]:
    """Clip the gradient of every user's mean loss, and step along their mean."""
    warnings.filterwarnings("ignore", message="There is a performance drop")  # of attention, on a CPU
    users = list(zip(*(part.split(users_at_once) for part in padded(data, longest)), strict=True))
    count = sum(len(mask) for *_, mask in users)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        losses = F.cross_entropy(functional_call(model, parameters, (x,)), y, reduction="none")
        return (losses.reshape(len(mask), -1).mean(1) * mask).sum() / mask.sum()

    gradients = vmap(grad(loss), in_dims=(None, 0, 0, 0))

    @torch.no_grad()
    def step() -> None:
        fixed = {name: p.detach() for name, p in parameters.items()}
        total = {name: torch.zeros_like(p) for name, p in fixed.items()}
        for some in users:
            rows = gradients(fixed, *some)
            norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows.values()]).norm(dim=0)
            factors = (max_grad_norm / norms).clamp(max=1.0)
            for name, row in rows.items():
                total[name] += torch.tensordot(factors, row, 1)
        for name, p in parameters.items():
            p.sub_(total[name], alpha=rate / count)

    return step
