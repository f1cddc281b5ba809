"""Which strategy computes the bucket gradients, and how many buckets share a physical batch."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import nn

from dpmi.privacy.plan import Plan

Strategy = Literal["stream", "hooks", "ghost"]
GradSampleMode = Literal["auto", "stream", "hooks", "ghost"]

LOG = logging.getLogger("dpmi")

ONE_AT_A_TIME = "one bucket at a time goes through the model, because %s"
"""Logged once per run, with the reason."""

ROWS_BYTES = 2**25
"""Most memory for the rows of one physical batch: 32 MiB."""

SMALL_ROW = 2**17
"""Parameters up to which rows cost next to nothing, and several buckets at a time always pay. Time of a step against
the non-private one, 26 k parameters: hooks 1.2 and stream 1.3 for buckets of 120, 1.6 and 4.6 for 4."""

BUSY = 128
"""Times that a bucket must use a parameter, records times positions on average, to keep the machine busy alone. Time
of a step against the non-private one: 107 times (ResNet-18 for large images, 32 records of 32 x 32), ghost 1.1 to 1.4
and stream 2.1; 190 (linear softmax of 639 k parameters), stream 1.2 and hooks 1.2; 1,600 (ResNet-18 for small images,
32 records), stream 1.03, hooks 1.05 and ghost 1.08."""


@dataclass(frozen=True)
class Choice:
    """How bucket gradients are computed.

    Args:
        strategy: "stream", "hooks" or "ghost".
        max_buckets: most buckets in one physical batch.
        insist: the user named the strategy, so that nothing else may be done instead.
        most_work: multiply-adds per record from which on one bucket at a time is as fast, and takes less memory.
    """

    strategy: Strategy
    max_buckets: int
    insist: bool
    most_work: float = math.inf


def choose(
    mode: GradSampleMode,
    module: nn.Module,
    plan: Plan,
    *,
    row_elements: int,
    max_physical_batch_size: int,
    criterion: bool,
    own_collate: bool,
) -> Choice:
    """Choose by bucket sizes, parameters and memory; by the work that a record makes, the dry runs decide.

    Args:
        mode: "auto", or the strategy.
        module: the user's.
        plan: of the run.
        row_elements: parameters that train.
        max_physical_batch_size: most records in one physical batch.
        criterion: whether the user gave one, which several buckets at a time take.
        own_collate: whether the data loader has a collate function of the user's own.

    Raises:
        ValueError: unknown mode, or one that the module cannot be used with, or the criterion.
    """
    if mode not in get_args(GradSampleMode):
        raise ValueError(
            f"grad_sample_mode is {mode!r}; it must be one of {', '.join(get_args(GradSampleMode))}"
        )
    if mode in ("hooks", "ghost") and not criterion:
        raise ValueError(
            f"grad_sample_mode is {mode!r}, which takes several buckets at a time, and needs to compute the loss of "
            "each by itself; pass criterion=..., and use the criterion that make_private then returns, or use "
            "'stream'"
        )
    if mode == "stream" and criterion:
        raise ValueError(
            "criterion is given, and grad_sample_mode='stream' takes one bucket at a time, with any loss; leave the "
            "criterion out, or use 'auto'"
        )
    compiled = any(hasattr(m, "_orig_mod") for m in module.modules())
    if compiled and mode in ("hooks", "ghost"):
        raise ValueError(
            f"grad_sample_mode is {mode!r}, but module is compiled, and what happens inside cannot be captured; use "
            "'stream' or 'auto', or do not compile the module"
        )
    rows = max(1, ROWS_BYTES // (4 * row_elements))
    if mode == "hooks":
        return Choice("hooks", rows, insist=True)
    if mode == "ghost":
        return Choice("ghost", max_physical_batch_size, insist=True)
    size = float(np.median(plan.records_of))
    alone = (
        "grad_sample_mode is 'stream'"
        if mode == "stream"
        else "no criterion was given"
        if not criterion
        else "what happens inside a compiled module cannot be followed"
        if compiled
        else "the data loader's collate_fn may give buckets different shapes ('hooks' and 'ghost' rely on one)"
        if own_collate
        else "two buckets do not fit into a physical batch"
        if min(max_physical_batch_size / size, plan.expected_buckets) < 2
        else f"{size:g} records of a bucket keep the machine busy"
        if row_elements > SMALL_ROW and size >= BUSY
        else None
    )
    if alone is not None:
        LOG.info(ONE_AT_A_TIME, alone)
        return Choice("stream", 1, insist=False)
    if row_elements <= SMALL_ROW:
        return Choice("hooks", rows, insist=False)
    return Choice("ghost", max_physical_batch_size, insist=False, most_work=BUSY * row_elements / size)
