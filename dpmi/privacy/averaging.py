"""Averages of the weights of a training: post-processing, so they cost no privacy, and noise averages out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from accountants import checks

Average = Literal["tail", "ema"]
"""tail: the mean of the last half of the steps. ema: an exponential moving average."""

DECAY = 0.99
"""Of the moving average, once it has seen a thousand steps; earlier ones count more, as (1 + t) / (10 + t)."""


class WeightAverage:
    """Follows an optimizer and averages the weights after its steps.

    A private optimizer steps once per released logical step, including empty draws, whatever the physical batches.

    Args:
        optimizer: private or not; its parameters are averaged.
        kind: "tail" or "ema".
        steps: steps T >= 1 of the whole training, of which "tail" averages the last half.

    Raises:
        ValueError: the kind is unknown, ``steps`` is below 1, or the parameters are sharded.

    >>> weight = nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0)
    >>> average = WeightAverage(optimizer, "tail", steps=4)
    >>> for _ in range(4):  # the weight is -1, -2, -3, -4
    ...     weight.grad = torch.ones(1)
    ...     optimizer.step()
    >>> with average.applied():
    ...     print(weight.item())
    -3.5
    """

    def __init__(self, optimizer: Optimizer, kind: Average, *, steps: int) -> None:
        if kind not in get_args(Average):
            raise ValueError(f"average must be {' or '.join(map(repr, get_args(Average)))}, got {kind!r}")
        self._kind = kind
        self._first = checks.integer("steps", steps, minimum=1) // 2
        self._parameters: list[nn.Parameter] = [
            p for group in optimizer.param_groups for p in group["params"]
        ]
        if any(isinstance(p, DTensor) for p in self._parameters):
            raise ValueError(
                "optimizer holds sharded parameters, whose averages would not reach the module; average "
                "copies of module.state_dict(), or train the plain module"
            )
        self._mean = [torch.zeros_like(p) for p in self._parameters]
        self._seen = self._taken = 0
        inner = optimizer.original_optimizer if isinstance(optimizer, DPOptimizer) else optimizer
        self._handle = inner.register_step_post_hook(self._see)

    @torch.no_grad()
    def _see(self, *_: object) -> None:
        self._seen += 1
        if self._kind == "tail" and self._seen <= self._first:
            return
        self._taken += 1
        t = self._taken
        weight = 1 / t if self._kind == "tail" or t == 1 else 1 - min(DECAY, (1 + t) / (10 + t))
        torch._foreach_lerp_(self._mean, [p.detach() for p in self._parameters], weight)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the parameters their averages, for good; nothing is averaged any more.

        Raises:
            RuntimeError: no step was averaged yet.
        """
        self._exchange()
        self._handle.remove()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the parameters have their averages; take no step inside.

        Raises:
            RuntimeError: no step was averaged yet.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        if not self._taken:
            raise RuntimeError(
                f"no step was averaged yet: {self._seen} steps were taken, and {self._kind!r} begins after "
                f"{self._first if self._kind == 'tail' else 0}"
            )
        for parameter, mean in zip(self._parameters, self._mean, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)
