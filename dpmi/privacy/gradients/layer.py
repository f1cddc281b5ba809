"""What a layer has to say about its gradients, and which function calls belong to which layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .factors import Implicit
from .segments import Segments

INTERCEPTED: dict[Callable[..., Any], Callable[..., tuple[Tensor, Layer]]] = {}
"""For each intercepted function, one with its signature that returns its input and its :class:`Layer`."""

_Parse = TypeVar("_Parse", bound=Callable[..., "tuple[Tensor, Layer]"])


def intercepts(*functions: Callable[..., Any]) -> Callable[[_Parse], _Parse]:
    """Register how the arguments of functions such as ``F.linear`` become a :class:`Layer`."""

    def register(parse: _Parse) -> _Parse:
        INTERCEPTED.update(dict.fromkeys(functions, parse))
        return parse

    return register


class Layer(ABC):
    """One call with parameters: how the gradients of each bucket follow from its input and output gradient.

    It holds no input: between the forward and the backward pass that is autograd's to keep, guard and free.

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
        """The weight's gradient, one row per bucket, float32 or better.

        Args:
            x: the input, (records, ...).
            g: gradient of the output, (records, ...).
            segments: the buckets.

        Returns:
            (k, *weight.shape).
        """

    def implicit(self, x: Tensor, g: Tensor, segments: Segments) -> Implicit | None:
        """The weight's gradients without rows, where rows would take more memory; otherwise None.

        Args are those of :meth:`weight_rows`.
        """
        return None

    @abstractmethod
    def bias_rows(self, g: Tensor, segments: Segments) -> Tensor:
        """The bias's gradient, (k, *bias.shape), float32 or better."""


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type of rows: float32, and float64 where the layer computes in it."""
    return torch.promote_types(dtype, torch.float32)
