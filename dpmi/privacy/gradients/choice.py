"""Which strategy computes the bucket gradients, and how many buckets share a physical batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import nn

from dpmi.privacy.plan import Plan

Strategy = Literal["stream", "hooks", "ghost"]
GradSampleMode = Literal["auto", "stream", "hooks", "ghost"]

ROWS_BYTES = 2**25
"""Most memory for the rows of one physical batch: 32 MiB."""


@dataclass(frozen=True)
class Choice:
    """How bucket gradients are computed.

    Args:
        strategy: "stream", "hooks" or "ghost".
        max_buckets: most buckets in one physical batch.
        insist: the user named the strategy, so that nothing else may be done instead.
    """

    strategy: Strategy
    max_buckets: int
    insist: bool


def choose(
    mode: GradSampleMode,
    module: nn.Module,
    plan: Plan,
    *,
    row_elements: int,
    max_physical_batch_size: int,
) -> Choice:
    """Choose by bucket sizes, parameters and memory.

    Args:
        mode: "auto", or the strategy.
        module: the user's.
        plan: of the run.
        row_elements: parameters that train.
        max_physical_batch_size: most records in one physical batch.

    Raises:
        ValueError: unknown mode, or one that the module cannot be used with.
    """
    if mode not in get_args(GradSampleMode):
        raise ValueError(
            f"grad_sample_mode is {mode!r}; it must be one of {', '.join(get_args(GradSampleMode))}"
        )
    compiled = any(hasattr(m, "_orig_mod") for m in module.modules())
    if compiled and mode in ("hooks", "ghost"):
        raise ValueError(
            f"grad_sample_mode is {mode!r}, but module is compiled, and what happens inside cannot be captured; use "
            "'stream' or 'auto', or compile nothing"
        )
    rows = max(1, ROWS_BYTES // (4 * row_elements))
    together = min(max_physical_batch_size / float(np.median(plan.partition.sizes)), plan.expected_buckets)
    stream = Choice("stream", 1, insist=False)
    if mode == "hooks":
        return Choice("hooks", rows, insist=True)
    if mode == "ghost":
        return Choice("ghost", max_physical_batch_size, insist=True)
    if mode == "stream" or together < 2 or compiled:
        return stream
    return Choice("hooks", rows, insist=False)
