"""Detects whether a criterion is a mean or a sum over records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import loss

from ..structures import RowsPerRecord, copies_of_one
from .torch_losses import has_own_forward

Reduction = Literal["mean", "sum", "none"]


def reduction_of(criterion: Callable[..., Any]) -> Reduction | None:
    """Return the reduction that a loss module of torch declares.

    Returns:
        "mean" (also for "batchmean"), "sum", or "none" for one value per record. None unless it is an unmodified module
        of torch: a subclass may compute something else, and a function gets its reduction with each call.
    """
    if not isinstance(criterion, nn.Module) or type(criterion).__module__ != loss.__name__:
        return None
    if has_own_forward(criterion):
        return None
    known: dict[object, Reduction] = {"mean": "mean", "batchmean": "mean", "sum": "sum", "none": "none"}
    return known.get(getattr(criterion, "reduction", None))


def dry_reduction(
    criterion: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    records: int,
    rows_per_record: RowsPerRecord,
) -> Reduction | None:
    """Detect the reduction from the values for one, two and three copies of one record.

    Args:
        criterion: returns a scalar or one value per record.
        args: its positional arguments; their first record is used.
        kwargs: its keyword arguments.
        records: number of records that the arguments hold.
        rows_per_record: as for :func:`~dpmi.privacy.criterion.losses_by_bucket`.

    Returns:
        "mean", "sum", or "none" for one value per record; None if it is none of these, or the value is 0 or not finite.

    Raises:
        TypeError, ValueError: an argument cannot be split by record.
    """
    copies = copies_of_one(args, kwargs, (1, 2, 3), records=records, rows_per_record=rows_per_record)
    values = [criterion(*own_args, **own_kwargs) for own_args, own_kwargs in copies]
    shapes = [
        tuple(value.shape) if isinstance(value, Tensor) and value.is_floating_point() else None
        for value in values
    ]
    if shapes == [(1,), (2,), (3,)]:
        return "none"
    if shapes != [(), (), ()]:
        return None
    one, *more = (float(value.detach()) for value in values)
    # Far above the rounding of the type, and far below the factor of two between mean and sum.
    tolerance = abs(one) * max(1e-4, *(8 * torch.finfo(value.dtype).eps for value in values))
    if not 0 < abs(one) < math.inf:
        return None
    if all(abs(value - one) <= tolerance for value in more):
        return "mean"
    if all(abs(value - n * one) <= tolerance for n, value in enumerate(more, 2)):
        return "sum"
    return None
