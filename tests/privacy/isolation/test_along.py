from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from dpmi.privacy.isolation import along
from dpmi.privacy.isolation.functions import RULES

from .harness import Operand, Trial, check_family, draw_held, draw_partner, name_of


def _dims(data: st.DataObject, ndim: int) -> Any:
    one = st.integers(-ndim, ndim - 1)
    return data.draw(one | st.lists(one, min_size=1, max_size=2, unique_by=lambda dim: dim % ndim).map(tuple))


def _dim(data: st.DataObject, ndim: int) -> int:
    return data.draw(st.integers(-ndim, ndim - 1))


def reduction(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data, 2, 4)
    ndim = len(x.shape)
    single = func.__name__ in (
        "prod",
        "argmax",
        "argmin",
        "median",
        "nanmedian",
        "mode",
        "max",
        "min",
        "cummax",
    )
    dim = _dim(data, ndim) if single else _dims(data, ndim)
    keep = data.draw(st.booleans())
    name = func.__name__
    if name in ("max", "min") and data.draw(st.booleans()):
        return Trial([x, draw_partner(data, x)])
    if name == "count_nonzero":
        return Trial([x], lambda tensors, _: (*tensors, dim))
    if name in ("std", "var", "std_mean", "var_mean"):
        form: dict[str, Any] = {"keepdim": keep}
        if data.draw(st.booleans()):
            return Trial([x], lambda tensors, _: (*tensors, dim, False, keep))
        return Trial([x], lambda tensors, _: (*tensors, dim), form | {"correction": 0})
    if name in ("norm", "linalg_vector_norm", "kthvalue"):
        return Trial([x], lambda tensors, _: (*tensors, 1, dim, keep))
    named = data.draw(st.booleans())
    rest = () if named else (dim, keep)
    return Trial([x], lambda tensors, _: (*tensors, *rest), {"dim": dim, "keepdim": keep} if named else {})


def whole(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data, 2, 4)
    ndim, name = len(x.shape), func.__name__
    dim = _dim(data, ndim)
    if name in ("topk", "roll", "normalize"):
        return Trial([x], lambda tensors, _: (*tensors, 1, dim))
    if name == "gumbel_softmax":
        return Trial([x], keywords={"dim": dim, "hard": data.draw(st.booleans())}, drawn=True)
    if name == "flip":
        dims = _dims(data, ndim)
        return Trial([x], lambda tensors, _: (*tensors, dims))
    if name == "unfold":
        return Trial([x], lambda tensors, _: (*tensors, dim, 2, 1))
    if name == "glu":
        x.shape = tuple(2 * n for n in x.shape)
    if name in ("sort", "argsort", "glu") and data.draw(st.booleans()):
        return Trial([x])
    return Trial([x], lambda tensors, _: (*tensors, dim))


def triangle(data: st.DataObject, func: Any) -> Trial:
    return Trial([draw_held(data, 2, 4)])


def trailing_norm(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data, 2, 4)
    many = data.draw(st.integers(1, len(x.shape)))

    def arguments(tensors: list[Tensor], _: int) -> tuple[Any, ...]:
        return tensors[0], tuple(tensors[0].shape[-many:]), *tensors[1:]

    return Trial([x, Operand(x.shape[-many:])] if data.draw(st.booleans()) else [x], arguments)


def similarity(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data, 2, 4)
    operands = [x, draw_partner(data, x)]
    if func is torch.pairwise_distance:
        keep = data.draw(st.booleans())
        return Trial(operands, lambda tensors, _: (*tensors, 2.0, 1e-6, keep))
    dim = _dim(data, len(x.shape))
    return Trial(operands, lambda tensors, _: (*tensors, dim))


_REDUCTIONS = (along.reduction, along.extremum, along.spread, along.norm, along.mode, along.kthvalue)
_WHOLE = (
    along.along,
    along.along_last,
    along.topk,
    along.flip,
    along.roll,
    along.gumbel_softmax,
    along.normalize,
)
FAMILIES = (
    dict.fromkeys(_REDUCTIONS, reduction)
    | dict.fromkeys((*_WHOLE, along.windows), whole)
    | {along.triangle: triangle, along.trailing_norm: trailing_norm, along.similarity: similarity}
)
TABLE = {func: FAMILIES[rule] for func, rule in RULES.items() if rule in FAMILIES}


@pytest.mark.parametrize("func", TABLE, ids=name_of)
def test_keeps_records_apart(func: Any) -> None:
    check_family(func, TABLE[func])
