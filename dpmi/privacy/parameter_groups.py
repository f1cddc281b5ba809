"""The parameters that are clipped together: all of them, or every param group of the optimizer by itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from .clipping import Clipping, GroupClipping
from .gradients.bucket_gradients import Ghost, Rows


class ParameterGroups:
    """Splits bucket gradients by the groups of a :class:`~dpmi.privacy.clipping.GroupClipping`.

    Every parameter is in exactly one group, so the parts of a gradient are orthogonal and add up to it.

    Args:
        clipping: the rule; None for one group of all parameters.
        places: places of the trained parameters of each group, in the optimizer's order.
    """

    def __init__(self, clipping: GroupClipping | None, places: Sequence[frozenset[int]]) -> None:
        self._clipping = clipping
        self._places = places

    @classmethod
    def of(cls, clipping: Clipping, optimizer: Optimizer, trained: Sequence[nn.Parameter]) -> ParameterGroups:
        """Return the groups of a run."""
        if not isinstance(clipping, GroupClipping):
            return cls(None, ())
        of = {id(p): g for g, group in enumerate(optimizer.param_groups) for p in group["params"]}
        members = [
            frozenset(i for i, p in enumerate(trained) if of[id(p)] == g)
            for g in range(len(optimizer.param_groups))
        ]
        return cls(clipping, members)

    def split(self, gradients: Rows | Ghost) -> Sequence[Rows | Ghost]:
        """Return the part of the gradients in each group; they add up to the whole."""
        if self._clipping is None:
            return (gradients,)
        return [gradients.only(places) for places in self._places]

    def norms(self, max_grad_norm: float) -> Sequence[float]:
        """Return the norm to which each part is clipped."""
        return (max_grad_norm,) if self._clipping is None else self._clipping.norms(max_grad_norm)
