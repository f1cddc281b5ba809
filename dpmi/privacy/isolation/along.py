"""Rules of functions along given dimensions; these may be any dimensions except that of the records."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .elementwise import elementwise
from .labels import Label, Public, Records
from .operands import (
    align,
    apart,
    argument,
    dimension,
    dimensions,
    keywords,
    public,
    refuse,
    renumber,
    rule_of,
    variadic,
    words,
)
from .rules import Call, rule

_KEYWORDS = frozenset(
    ("dim", "axis", "keepdim", "keepdims", "dtype", "p", "ord", "unbiased", "correction", "k")
)
_OF_EQUAL_VALUES = frozenset(("all", "any", "amax", "amin", "max", "min", "mean"))


def _reduce(call: Call, value: Any, keep: Any) -> Label:
    """Return the label of a reduction over some dimensions, which then have size 1 or are removed."""
    ndim, label = call.tensors[0].dim(), call.labels[0]
    if not isinstance(keep, bool):
        refuse(call, f"keepdim is {keep!r}")
    if isinstance(label, Public):
        if (
            label.following
            and label.same
            and call.name in _OF_EQUAL_VALUES
            and all(label.is_constant(dim) for dim in label.following)
            and (value is None or call.name not in ("max", "min"))
        ):
            # The maximum of equal values is that value, for any number of them. Its index is arbitrary.
            label = Public(label.constant, everywhere=label.everywhere, same=True)
        if value is None:
            return apart(call, label, ndim, range(ndim))
    dims = dimensions(call, value, ndim)
    label = apart(call, label, ndim, dims)
    return label if keep else renumber(label, [i for i in range(ndim) if i not in dims])


def _only(call: Call, operands: int, positions: int) -> None:
    """Reject more operands or positional arguments than the rule reads."""
    keywords(call, _KEYWORDS)
    if len(call.tensors) > operands or len(call.args) > positions:
        refuse(call, f"{len(call.tensors)} operands and {len(call.args)} arguments by position")


@rule(
    *[
        "sum",
        "mean",
        "nansum",
        "nanmean",
        "amax",
        "amin",
        "prod",
        "argmax",
        "argmin",
        "any",
        "all",
        "median",
        "nanmedian",
        "logsumexp",
        "count_nonzero",
    ]
)
def reduction(call: Call) -> Label:
    """``f(x, dim, keepdim)``."""
    _only(call, 1, 3)
    return _reduce(
        call, argument(call, 1, "dim", "axis"), argument(call, 2, "keepdim", "keepdims", default=False)
    )


@rule("max", "min")
def extremum(call: Call) -> Label:
    """``f(x, dim, keepdim)``, or the elementwise extremum of two tensors."""
    if len(call.tensors) == 2:
        return elementwise(call)
    return reduction(call)


@rule("std", "var", "std_mean", "var_mean")
def spread(call: Call) -> Label:
    """``f(x, dim, unbiased, keepdim)`` or ``f(x, dim, correction=, keepdim=)``."""
    _only(call, 1, 4)
    return _reduce(call, argument(call, 1, "dim", "axis"), argument(call, 3, "keepdim", default=False))


@rule_of(torch.norm, Tensor.norm, torch.linalg.vector_norm)
def norm(call: Call) -> Label:
    """``f(x, p, dim, keepdim)``."""
    _only(call, 1, 4)
    if call.name == "norm" and argument(call, 1, "p", default=2) == "nuc":
        refuse(call, "matrix norms are not supported")
    return _reduce(call, argument(call, 2, "dim"), argument(call, 3, "keepdim", default=False))


@rule("mode")
def mode(call: Call) -> Label:
    """``f(x, dim=-1, keepdim)``."""
    _only(call, 1, 3)
    return _reduce(call, argument(call, 1, "dim", default=-1), argument(call, 2, "keepdim", default=False))


@rule("kthvalue")
def kthvalue(call: Call) -> Label:
    """``f(x, k, dim=-1, keepdim)``."""
    _only(call, 1, 4)
    return _reduce(call, argument(call, 2, "dim", default=-1), argument(call, 3, "keepdim", default=False))


_SAME_SHAPE = frozenset(
    words("dim dims dtype descending stable k largest sorted p eps tau hard shifts _stacklevel")
)


def _along(call: Call, value: Any) -> Label:
    keywords(call, _SAME_SHAPE)
    if len(call.tensors) > 1:
        refuse(call, "more than one operand is not supported")
    ndim = call.tensors[0].dim()
    return apart(call, call.labels[0], ndim, dimensions(call, value, ndim))


@rule(*words("""softmax log_softmax softmin cumsum cumprod cumsum_ cumprod_ cummax cummin logcumsumexp"""))
def along(call: Call) -> Label:
    """``f(x, dim)``; without a dimension, softmax chooses one by the number of dimensions."""
    return _along(call, argument(call, 1, "dim"))


@rule("sort", "argsort", "glu")
def along_last(call: Call) -> Label:
    """``f(x, dim=-1)``."""
    return _along(call, argument(call, 1, "dim", default=-1))


@rule("topk")
def topk(call: Call) -> Label:
    """``topk(x, k, dim=-1)``."""
    return _along(call, argument(call, 2, "dim", default=-1))


@rule("flip")
def flip(call: Call) -> Label:
    """``flip(x, dims)``, or ``x.flip(*dims)``."""
    return _along(call, variadic(call, "dims"))


@rule("roll")
def roll(call: Call) -> Label:
    """``roll(x, shifts, dims)``; without dimensions it moves entries between records."""
    return _along(call, argument(call, 2, "dims"))


@rule_of(F.gumbel_softmax)
def gumbel_softmax(call: Call) -> Label:
    """``gumbel_softmax(x, tau, hard, eps, dim=-1)``."""
    label = _along(call, argument(call, 4, "dim", default=-1))
    return Public(label.constant) if isinstance(label, Public) else label


@rule_of(F.normalize)
def normalize(call: Call) -> Label:
    """``normalize(x, p, dim=1)``."""
    return _along(call, argument(call, 2, "dim", default=1))


@rule_of(Tensor.unfold)
def windows(call: Call) -> Label:
    """``x.unfold(dimension, size, step)``: adds a dimension at the end."""
    keywords(call, ("dimension", "size", "step"))
    ndim = call.tensors[0].dim()
    dim = dimension(call, argument(call, 1, "dimension"), ndim)
    return apart(call, call.labels[0], ndim, (dim,))


@rule("tril", "triu")
def triangle(call: Call) -> Label:
    """A triangle of the matrices in the last two dimensions."""
    keywords(call, ("diagonal",))
    ndim = call.tensors[0].dim()
    return apart(call, call.labels[0], ndim, (ndim - 2, ndim - 1))


@rule_of(F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm)
def trailing_norm(call: Call) -> Label:
    """``f(x, normalized_shape, weight, bias)``, over the last dimensions."""
    keywords(call, ("normalized_shape", "weight", "bias", "eps"))
    shape: Collection[int] = argument(call, 1, "normalized_shape")
    label = call.labels[0]
    ndim = call.tensors[0].dim()
    if len(call.labels) > 1:
        public(call, 1)
    if isinstance(label, Records) and label.dim < ndim - len(shape):
        return label
    return apart(call, label, ndim, range(ndim - len(shape), ndim))


@rule_of(torch.cosine_similarity, torch.pairwise_distance)
def similarity(call: Call) -> Label:
    """``cosine_similarity(x1, x2, dim=1)``, and ``pairwise_distance(x1, x2, p, eps, keepdim)`` over the last one."""
    keywords(call, ("dim", "eps", "p", "keepdim"))
    ndim = max(tensor.dim() for tensor in call.tensors)
    got = align(call, call.tensors, call.labels, ndim)
    pairwise = call.func is torch.pairwise_distance
    value = -1 if pairwise else argument(call, 2, "dim", default=1)
    if got is None:
        if any(label.following for label in call.labels if isinstance(label, Public)):
            refuse(call, "public values that are as long as the number of records")
        return Public()
    dims = (dimension(call, value, ndim),)
    label = apart(call, got, ndim, dims)
    if pairwise and argument(call, 4, "keepdim", default=False):
        return label
    return renumber(label, [i for i in range(ndim) if i not in dims])
