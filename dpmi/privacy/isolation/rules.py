"""Which functions are known to keep records apart, and how each moves the label of its operands to its output."""

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
    """One function call among tensors of a pass, before it is made.

    Args:
        func: what is called, as a TorchFunctionMode gets it.
        args: positional arguments.
        kwargs: keyword arguments.
        tensors: every tensor among the arguments, also inside lists and tuples, in order.
        labels: theirs.
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
        """What the function is called."""
        return getattr(self.func, "__name__", "") or repr(self.func)


After = Callable[[Any], Label]
"""The label of an output that is only known by its shape: called with what the function returned."""

Rule = Callable[[Call], "Label | After"]
"""Returns the label of the output (of every tensor in it), or raises :class:`Coupled` before the call is made."""

RULES: dict[Callable[..., Any], Rule] = {}
"""A call with an operand that holds records is made only if its function is here."""

_R = TypeVar("_R", bound=Rule)


def rule(*names: str) -> Callable[[_R], _R]:
    """Register a rule for every function of these names, wherever torch has it: torch, Tensor, torch.nn.functional."""

    def register(function: _R) -> _R:
        for name in names:
            # A module has an __eq__ of its own.
            owners = (Tensor,) if name.startswith("__") else (torch, F, Tensor, torch._C._nn, torch._C)
            found = [f for owner in owners if callable(f := getattr(owner, name, None))]
            assert found, name
            RULES.update(dict.fromkeys(found, function))
        return function

    return register
