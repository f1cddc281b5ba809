"""The registry of functions that process records independently, with a rule for the label of each output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .labels import Label


@dataclass(slots=True)
class Call:
    """One function call on tensors of a pass, before it is made.

    Args:
        func: the function, as a TorchFunctionMode gets it.
        args: positional arguments.
        kwargs: keyword arguments.
        tensors: every tensor among the arguments, including those inside lists and tuples, in order.
        labels: the labels of these tensors.
        records: number N of records of the physical batch.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[Tensor]
    labels: list[Label]
    records: int

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.func, "__name__", "") or repr(self.func)


After = Callable[[Any], Label]
"""Returns the label of an output that depends on the output's shape; it is called with the function's result."""

Rule = Callable[[Call], "Label | After"]
"""Returns the label of the output (of every tensor in it), or raises :class:`Coupled` before the call is made."""

RULES: dict[Callable[..., Any], Rule] = {}
"""The rules. A call on a tensor that holds records is made only if its function has a rule."""

_R = TypeVar("_R", bound=Rule)


def rule(*names: str) -> Callable[[_R], _R]:
    """Register a rule for every function of these names in torch, Tensor, torch.nn.functional and their C modules."""

    def register(function: _R) -> _R:
        for name in names:
            # Special methods are looked up in Tensor only, because modules also have an __eq__, for example.
            owners = (Tensor,) if name.startswith("__") else (torch, F, Tensor, torch._C._nn, torch._C)
            found = [f for owner in owners if callable(f := getattr(owner, name, None))]
            assert found, name
            RULES.update(dict.fromkeys(found, function))
        return function

    return register
