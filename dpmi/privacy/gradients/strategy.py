"""The choice of a strategy for bucket gradients, and of the number of buckets per physical batch."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from dpmi.privacy.plan import Plan

Strategy = Literal["stream", "hooks", "ghost"]
GradSampleMode = Literal["auto", "stream", "hooks", "ghost"]

LOG = logging.getLogger("dpmi")

ONE_AT_A_TIME = "the model processes one bucket at a time, because %s"
"""Logged once per run, with the reason."""


@dataclass(frozen=True)
class Thresholds:
    """What is fast on a kind of device.

    Args:
        rows_bytes: largest memory for the rows of one physical batch.
        small_row: number of parameters up to which rows are cheap, so that several buckets at a time are always faster.
        busy: how often a bucket must use each parameter (records times positions, on average) to keep the device busy
            by itself.
    """

    rows_bytes: int
    small_row: int
    busy: int


THRESHOLDS = {
    # Measured. Step time relative to the non-private step, 26 k parameters: hooks 1.2 and stream 1.3 for buckets of 120
    # records, 1.6 and 4.6 for buckets of 4. At 107 uses of each parameter (ResNet-18 for large images, 32 records of
    # 32 x 32), ghost 1.1 to 1.4 and stream 2.1; at 190 (linear softmax with 639 k parameters), stream 1.2 and hooks
    # 1.2; at 1,600 (ResNet-18 for small images, 32 records), stream 1.03, hooks 1.05 and ghost 1.08.
    "cpu": Thresholds(rows_bytes=2**25, small_row=2**17, busy=128),
    # Not measured yet. A GPU computes about 100 times as fast as two cores, and a call costs about as much to start, so
    # a bucket must do about 100 times as much to hide it. Rows are read at about 100 times the speed; 256 MiB fit on
    # every GPU, and hold 2,500 rows of 26 k parameters, or 64 of 1 M.
    "cuda": Thresholds(rows_bytes=2**28, small_row=2**20, busy=2**14),
}
"""By ``device.type``; other devices than a CPU count as "cuda"."""


def is_compiled(module: nn.Module) -> bool:
    """Return whether calls inside a module cannot be observed: it, or a part of it, is compiled, scripted or traced."""
    return any(
        hasattr(m, "_orig_mod") or m._compiled_call_impl is not None or isinstance(m, torch.jit.ScriptModule)
        for m in module.modules()
    )


@dataclass(frozen=True)
class Choice:
    """How bucket gradients are computed.

    Args:
        strategy: "stream", "hooks" or "ghost".
        max_buckets: most buckets in one physical batch.
        insist: whether the user chose the strategy, so that no other one may be used instead.
        most_work: multiply-adds per record above which one bucket at a time is as fast, and needs less memory.
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
    device: torch.device,
) -> Choice:
    """Choose by bucket sizes, parameters and memory; the dry runs later decide by the compute per record.

    Args:
        mode: "auto", or the strategy.
        module: the user's module.
        plan: the run's plan.
        row_elements: number of trained parameters.
        max_physical_batch_size: most records in one physical batch.
        criterion: whether a criterion is given, which several buckets at a time need.
        own_collate: whether the data loader has a custom collate function.
        device: of the parameters.

    Raises:
        ValueError: the mode is unknown, or does not work with the module or the criterion.
    """
    if mode not in get_args(GradSampleMode):
        raise ValueError(
            f"grad_sample_mode is {mode!r}; it must be one of {', '.join(get_args(GradSampleMode))}"
        )
    if mode in ("hooks", "ghost") and not criterion:
        raise ValueError(
            f"grad_sample_mode is {mode!r}, which processes several buckets at a time and computes the loss of "
            "each separately; pass criterion=..., and use the criterion that make_private then returns, or use "
            "'stream'"
        )
    if mode == "stream" and criterion:
        raise ValueError(
            "criterion is given, but grad_sample_mode='stream' processes one bucket at a time and needs none; omit "
            "the criterion, or use 'auto'"
        )
    compiled = is_compiled(module)
    if compiled and mode in ("hooks", "ghost"):
        raise ValueError(
            f"grad_sample_mode is {mode!r}, but module is compiled, so its calls cannot be captured; use "
            "'stream' or 'auto', or do not compile the module"
        )
    limits = THRESHOLDS["cpu" if device.type == "cpu" else "cuda"]
    rows = max(1, limits.rows_bytes // (4 * row_elements))
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
        else "the calls inside a compiled module cannot be tracked"
        if compiled
        else "the data loader's collate_fn may give buckets different shapes ('hooks' and 'ghost' need equal ones)"
        if own_collate
        else "two buckets do not fit into a physical batch"
        if min(max_physical_batch_size / size, plan.rate * plan.partition.num_buckets) < 2
        else f"a bucket of {size:g} records keeps the machine busy"
        if row_elements > limits.small_row and size >= limits.busy
        else None
    )
    if alone is not None:
        LOG.info(ONE_AT_A_TIME, alone)
        return Choice("stream", 1, insist=False)
    if row_elements <= limits.small_row:
        return Choice("hooks", rows, insist=False)
    return Choice("ghost", max_physical_batch_size, insist=False, most_work=limits.busy * row_elements / size)
