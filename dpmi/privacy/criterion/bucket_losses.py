"""One loss per bucket: the criterion gets only the outputs and targets of that bucket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gradients.segments import Segments
from ..structures import RowsPerRecord, split
from .torch_losses import torch_losses_by_bucket


def losses_by_bucket(
    criterion: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    segments: Segments,
    reduction: str,
    rows_per_record: RowsPerRecord,
    run: Callable[..., Any] | None = None,
) -> Tensor:
    """Return the user's loss of each bucket.

    Torch's losses are computed for all buckets in one call, with the same result up to rounding.

    Args:
        criterion: returns, for the outputs and targets of n records, a scalar or one value per record.
        args: its positional arguments for all records of the physical batch: tensors, or nested structures of them.
        kwargs: its keyword arguments.
        segments: the k buckets of the physical batch.
        reduction: "mean" or "sum", for a criterion that returns one value per record.
        rows_per_record: for every tensor among the arguments, the number of consecutive rows of dimension 0 per record;
            None if the tensor holds no records and is passed unchanged for every bucket.
        run: calls the criterion for one bucket, unless it is one of torch's; by default, the criterion itself.

    Returns:
        (k,), in float32 or better for torch's losses. If one of torch's losses ignores all targets of a bucket (or
        their class weight is 0), the bucket has loss 0; any other NaN is kept.

    Raises:
        TypeError: an argument cannot be split by bucket, or the criterion returned no floating-point tensor.
        ValueError: an argument does not hold the records, the criterion returned another shape, or its value does not
            depend on the outputs.
    """
    losses = torch_losses_by_bucket(
        criterion, args, kwargs, segments=segments, reduction=reduction, rows_per_record=rows_per_record
    )
    if losses is None:
        # With a single bucket, all arguments belong to it and need no split.
        whole = [(tuple(args), dict(kwargs))]
        buckets = whole if segments.num_buckets == 1 else split(args, kwargs, segments, rows_per_record)
        losses = torch.stack(
            [
                reduced((run or criterion)(*own_args, **own_kwargs), size, reduction)
                for (own_args, own_kwargs), size in zip(buckets, segments.sizes, strict=True)
            ]
        )
    if torch.is_grad_enabled() and not losses.requires_grad:
        raise ValueError(
            f"the loss of {segments.num_buckets} buckets does not require a gradient: the criterion must depend on "
            "outputs of the private model. Pass the outputs of the training pass, not detached"
        )
    return losses


def reduced(value: object, records: int, reduction: str) -> Tensor:
    """Reduce the value that a criterion returned for some records to a scalar.

    Raises:
        TypeError, ValueError: the value is neither a scalar nor one value per record.
    """
    wanted = (
        "it must return a floating-point tensor: a scalar, shape (), or one value per record, "
        f"shape ({records},)"
    )
    if not isinstance(value, Tensor):
        raise TypeError(
            f"the criterion returned a {type(value).__name__} for a bucket of {records} records; {wanted}"
        )
    if not value.is_floating_point():
        raise TypeError(
            f"the criterion returned a tensor of {value.dtype} for a bucket of {records} records; {wanted}"
        )
    if value.dim() == 0:
        return value
    if value.shape != (records,):
        raise ValueError(
            f"the criterion returned shape {tuple(value.shape)} for a bucket of {records} records; {wanted}"
        )
    return value.mean() if reduction == "mean" else value.sum()
