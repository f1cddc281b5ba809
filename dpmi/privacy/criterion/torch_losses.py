"""Torch's losses, computed for all buckets in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from ..gradients.segments import Segments
from ..structures import RowsPerRecord
from ..waits import sent

_MODULES: dict[type[nn.Module], tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    nn.BCELoss: (F.binary_cross_entropy, ("weight",)),
    nn.BCEWithLogitsLoss: (F.binary_cross_entropy_with_logits, ("weight", "pos_weight")),
    nn.CrossEntropyLoss: (F.cross_entropy, ("weight", "ignore_index", "label_smoothing")),
    nn.HingeEmbeddingLoss: (F.hinge_embedding_loss, ("margin",)),
    nn.HuberLoss: (F.huber_loss, ("delta",)),
    nn.KLDivLoss: (F.kl_div, ("log_target",)),
    nn.L1Loss: (F.l1_loss, ()),
    nn.MSELoss: (F.mse_loss, ()),
    nn.NLLLoss: (F.nll_loss, ("weight", "ignore_index")),
    nn.PoissonNLLLoss: (F.poisson_nll_loss, ("log_input", "full", "eps")),
    nn.SmoothL1Loss: (F.smooth_l1_loss, ("beta",)),
    nn.SoftMarginLoss: (F.soft_margin_loss, ()),
}
"""For each module, the function that it calls with input and target, and the attributes that it passes on."""

_FUNCTIONS = frozenset(function for function, _ in _MODULES.values())
_OF_CLASSES = (F.cross_entropy, F.nll_loss)


def torch_losses_by_bucket(
    criterion: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    segments: Segments,
    reduction: str,
    rows_per_record: RowsPerRecord,
) -> Tensor | None:
    """Compute a loss of torch with ``reduction="none"``, then reduce it by bucket with the loss's own denominator.

    Args:
        criterion: a module or function of torch itself, not a subclass, and without hooks.
        args: its positional arguments.
        kwargs: its keyword arguments.
        segments: the k buckets.
        reduction: "mean" or "sum", used if the criterion's own is "none".
        rows_per_record: as for :func:`~dpmi.privacy.criterion.losses_by_bucket`.

    Returns:
        (k,) in float32 or better; None if one call is not known to equal one call per bucket.
    """
    call = _call(criterion, tuple(args), kwargs)
    if call is None:
        return None
    function, arguments = call
    # A weight among the criterion's attributes is the same for all buckets; one among the arguments may hold records.
    others = (
        v for v in (*args, *kwargs.values()) if v is not arguments["input"] and v is not arguments["target"]
    )
    whole = not any(isinstance(other, Tensor) and rows_per_record(other) is not None for other in others)
    rows = _rows(function, arguments, segments, rows_per_record) if whole else None
    if rows is None:
        return None
    values = function(**{**arguments, "reduction": "none"})
    own = arguments["reduction"]
    if own == "none" and values.shape != (segments.records,):
        return None
    if own == "none":
        own = reduction
        arguments = {**arguments, "weight": None, "ignore_index": None}  # the values already include them
    with torch.autocast(values.device.type, enabled=False):  # autocast would sum in 16 bits
        sums = _sum(values, segments)
        if own == "sum":
            return sums
        is_index = function in _OF_CLASSES and not arguments["target"].is_floating_point()
        if is_index and arguments["ignore_index"] is not None:
            count = _kept(arguments, segments)
        else:
            each = rows if own == "batchmean" else values.numel() // segments.records
            count = each * sent(torch.tensor(segments.sizes, dtype=sums.dtype), sums.device)
        nothing = (count == 0) & (sums == 0)  # torch's mean over no target is 0 / 0
        return sums / torch.where(nothing, 1, count)


def _rows(
    function: Callable[..., Tensor],
    arguments: Mapping[str, Any],
    segments: Segments,
    rows_per_record: RowsPerRecord,
) -> int | None:
    """Return the rows per record, if every value belongs to one record and is the same in a call on its bucket only."""
    x, y = arguments["input"], arguments["target"]
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() and y.dim() and x.numel()):
        return None
    rows = rows_per_record(x)
    aligned = rows is not None and rows_per_record(y) == rows and len(x) == len(y) == rows * segments.records
    weights = [w for name in ("weight", "pos_weight") if (w := arguments.get(name)) is not None]
    if function in _OF_CLASSES:
        same = x.dim() > 1  # with one dimension, x holds the scores of a single record
    else:  # no broadcasting, because it may differ within a bucket
        same = x.shape == y.shape and all(_of_features(w, x) for w in weights)
        # Other losses divide by the sum of the weights.
        same &= not weights or function in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
    known = ("mean", "sum", "none", "batchmean") if function is F.kl_div else ("mean", "sum", "none")
    return rows if aligned and same and arguments["reduction"] in known else None


def has_own_forward(criterion: nn.Module) -> bool:
    """Return whether calling a module does anything besides its class's forward."""
    return bool(
        "forward" in vars(criterion)
        or criterion._forward_hooks
        or criterion._forward_pre_hooks
        or criterion._backward_hooks
        or criterion._backward_pre_hooks
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def _call(
    criterion: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Tensor], dict[str, Any]] | None:
    """Return the function of torch that the criterion calls, and its arguments by name."""
    try:
        if isinstance(criterion, nn.Module):
            if type(criterion) not in _MODULES or has_own_forward(criterion):
                return None
            if len(args) != 2 or kwargs:
                args = _signature(type(criterion).forward).bind(criterion, *args, **kwargs).args[1:]
            function, names = _MODULES[type(criterion)]
            arguments = {name: getattr(criterion, name) for name in (*names, "reduction")}
            return function, {"input": args[0], "target": args[1], **arguments}
        if not (inspect.isfunction(criterion) and criterion in _FUNCTIONS):
            return None
        bound = _signature(criterion).bind(*args, **kwargs)
    except TypeError:  # torch's own call raises the better error
        return None
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    # These deprecated arguments override reduction.
    if arguments.pop("size_average", None) is not None or arguments.pop("reduce", None) is not None:
        return None
    return criterion, arguments


@cache
def _signature(function: Callable[..., Tensor]) -> inspect.Signature:
    return inspect.signature(function)


def _of_features(weight: Tensor, x: Tensor) -> bool:
    """Return whether a weight is the same for all records."""
    return weight.dim() < x.dim() or (weight.dim() == x.dim() and weight.shape[0] == 1)


def _sum(values: Tensor, segments: Segments) -> Tensor:
    """Return the sum over the records of each bucket and all their values, (k,)."""
    return segments.sum(values.reshape(segments.records, -1), dims=[1])


def _kept(arguments: Mapping[str, Any], segments: Segments) -> Tensor:
    """Return the number, or the total weight, of each bucket's targets that are not ignored, (k,)."""
    y, weight = arguments["target"], arguments["weight"]
    kept = y != arguments["ignore_index"]
    return _sum(kept if weight is None else weight[torch.where(kept, y, 0)] * kept, segments)
