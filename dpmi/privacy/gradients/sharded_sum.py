"""The noisy sum of one logical step over all ranks, of which each rank keeps its shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from dpmi.privacy.distributed import Ranks

from .running_sum import RunningSum


class ShardedSum(RunningSum):
    """Sums the clipped bucket gradients of all ranks into this rank's shards, on top of this rank's noise.

    Every value belongs to one shard, whose rank adds the noise of that value. Sums are exchanged in rounds: one for
    every call of :meth:`add` or :meth:`add_rows` on any rank. A rank that has nothing to add takes part with zeros, in
    :meth:`finish`. Before each round the ranks exchange their status, so one that has failed ends the step on all.

    Args:
        sharded: the parameters, divided along dimension 0 among the ranks.
        ranks: the processes.
    """

    def __init__(self, sharded: list[nn.Parameter], ranks: Ranks) -> None:
        self._sharded = [p for p in sharded if isinstance(p, DTensor)]
        self._ranks = ranks
        with torch.no_grad():
            super().__init__([nn.Parameter(p.to_local()) for p in self._sharded])

    def add(self, gradients: Iterable[Tensor | None], factor: float) -> None:
        """Add one gradient times a factor; it has (*shape) for every whole parameter, and None for zero."""
        self._ranks.any(True)
        self._exchange(None if g is None else g.to(view.dtype) * factor for view, g in self._with(gradients))

    def add_rows(self, rows: list[Tensor | None], factors: Tensor) -> None:
        """Add rows (k, *shape), each multiplied by its factor, (k,) float64."""
        self._ranks.any(True)
        self._exchange(
            None if row is None else torch.tensordot(factors.to(view), row.to(view), 1)
            for view, row in self._with(rows)
        )

    def finish(self) -> None:
        """Take part in the rounds of the ranks that still add."""
        while self._ranks.any(False):
            self._exchange(repeat(None))

    def sum_over(self, ranks: Ranks, *others: Tensor) -> None:
        """Sum the other tensors; the shards already hold the sums of all ranks."""
        # With something to sum in any case, so that no rank updates before all have charged the step.
        ranks.sum_([*others, torch.zeros(1, device=self._views[0].device)])

    def gradients(self) -> list[Tensor]:
        """Return the sum, one sharded tensor for every parameter; valid until the next :meth:`start`."""
        return [
            DTensor.from_local(
                view, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
            )
            for p, view in zip(self._sharded, self._views, strict=True)
        ]

    def _with(self, values: Iterable[Tensor | None]) -> Iterator[tuple[Tensor, Tensor | None]]:
        return zip(self._views, values, strict=True)

    def _exchange(self, gradients: Iterable[Tensor | None]) -> None:
        """Add this rank's gradients, one whole one at a time, to the shards of all ranks."""
        with self._ranks.exchanging(), torch.no_grad():
            for p, view, g in zip(self._sharded, self._views, gradients, strict=False):
                whole = view.new_zeros(p.shape) if g is None else g.contiguous()
                with self._ranks.waiting("Nothing of it was released or charged"):
                    part = DTensor.from_local(whole, p.device_mesh, [Partial()], run_check=False)
                    view.add_(part.redistribute(placements=p.placements).to_local())
