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

SMALL_ROW = 2**17
"""Parameters up to which rows cost next to nothing, and several buckets at a time always pay. Time of a step against
the non-private one, 26 k parameters: hooks 1.2 and stream 1.3 for buckets of 120, 1.6 and 4.6 for 4."""

LARGE_BUCKET = 64
"""Records from which on a bucket alone keeps the machine busy. ResNet-18, buckets of 32: ghost 1.1, hooks 1.6, stream
2.1; linear softmax of 639 k parameters, 190: stream 1.2, hooks 1.2."""


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
    if row_elements <= SMALL_ROW:
        return Choice("hooks", rows, insist=False)
    if np.median(plan.partition.sizes) < LARGE_BUCKET:
        return Choice("ghost", max_physical_batch_size, insist=False)
    return stream
