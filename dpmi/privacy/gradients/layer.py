"""The interface of a layer's bucket gradients, and the registry of function calls that belong to a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .factors import Implicit
from .segments import Segments

INTERCEPTED: dict[Callable[..., Any], Callable[..., tuple[Tensor, Layer]]] = {}
"""For each intercepted function, a function of the same signature that returns its input and its :class:`Layer`."""

_Parse = TypeVar("_Parse", bound=Callable[..., "tuple[Tensor, Layer]"])


def intercepts(*functions: Callable[..., Any]) -> Callable[[_Parse], _Parse]:
    """Register a function that turns the arguments of functions such as ``F.linear`` into a :class:`Layer`."""

    def register(parse: _Parse) -> _Parse:
        INTERCEPTED.update(dict.fromkeys(functions, parse))
        return parse

    return register


class Layer(ABC):
    """One call with parameters: it computes the gradients of each bucket from its input and output gradient.

    It does not store its input: autograd keeps, guards and frees it between the forward and the backward pass.

    Args:
        weight: first parameter, or None.
        bias: second parameter, or None.
    """

    unsupported: str | None = None
    """An option that makes the gradient of a bucket depend on other buckets, or None."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    @abstractmethod
    def weight_rows(self, x: Tensor, g: Tensor, segments: Segments) -> Tensor:
        """Return the weight's gradient, one row per bucket, float32 or better.

        Args:
            x: the layer's input, (records, ...).
            g: gradient of the layer's output, (records, ...).
            segments: the buckets.

        Returns:
            (k, *weight.shape).
        """

    def implicit(self, x: Tensor, g: Tensor, segments: Segments) -> Implicit | None:
        """Return the weight's gradients without rows if rows would need more memory, else None.

        The arguments are those of :meth:`weight_rows`.
        """
        return None

    @abstractmethod
    def bias_rows(self, g: Tensor, segments: Segments) -> Tensor:
        """Return the bias's gradient, (k, *bias.shape), float32 or better."""


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type of rows: float64 if the layer computes in float64, else float32."""
    return torch.promote_types(dtype, torch.float32)
