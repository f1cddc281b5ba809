"""Forward passes in bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import Tensor

Precision = Literal["float32", "bf16"]
"""Of forward passes. Weights, losses and updates are in float32 in any case."""


def check_precision(value: object) -> None:
    """Raise a ValueError unless the value is a precision."""
    if value not in get_args(Precision):
        raise ValueError(f"precision must be {' or '.join(map(repr, get_args(Precision)))}; got {value!r}")


def forward_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Run forward passes in bfloat16 where ``torch.autocast`` finds it safe, if the precision is "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def widened(x: Tensor) -> Tensor:
    """Return values in float32 or better, with gradients.

    A loss of exponentials or of differences needs more than the 8 bits of bfloat16.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
