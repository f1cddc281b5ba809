"""Transfers between the processor and a GPU that wait for the GPU as seldom as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def sent(t: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the processor on a device, without waiting for the work of a GPU."""
    if device.type != "cuda":
        return t.to(device)
    return t.pin_memory().to(device, non_blocking=True)  # torch keeps the pinned memory until it was copied


@dataclass(frozen=True)
class Doubt:
    """A check that is not read yet, because reading it waits for the device.

    Args:
        is_wrong: the result, () bool.
        error: makes the error of a failed check.
    """

    is_wrong: Tensor
    error: Callable[[], Exception]


def read(numbers: Tensor, doubts: Sequence[Doubt] = ()) -> NDArray[np.float64]:
    """Return numbers of a device, float64 of any shape, after all doubts about them; this waits once.

    Raises:
        Exception: that of the first doubt that is right.
    """
    flags = [doubt.is_wrong.to(numbers.device, torch.float64).reshape(1) for doubt in doubts]
    together = torch.cat([*flags, numbers.flatten()]).cpu().numpy()
    for doubt, is_wrong in zip(doubts, together, strict=False):
        if is_wrong:
            raise doubt.error()
    found: NDArray[np.float64] = together[len(doubts) :].reshape(tuple(numbers.shape))
    return found
