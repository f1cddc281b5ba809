from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from dpmi.privacy.isolation import indexing
from dpmi.privacy.isolation.functions import RULES
from dpmi.privacy.isolation.labels import PUBLIC, Records

from .harness import Operand, Trial, check_family, draw_held, draw_label, draw_partner, name_of


def _index(data: st.DataObject, x: Operand) -> tuple[Any, ...]:
    """For each dimension a slice, a number, a list or a tensor; new ones and an ellipsis among them."""
    assert isinstance(x.label, Records)
    parts: list[Any] = []
    for dim in range(len(x.shape)):
        if data.draw(st.integers(0, 4)) == 0:
            parts.append(None)
        whole = st.sampled_from([slice(None), slice(0, None), slice(None, 1000)])
        other = st.sampled_from([0, -1, slice(0, 1), slice(None, None, 2), [0, 0], torch.tensor([[0], [0]])])
        chance = 5 if dim == x.label.dim else 1
        parts.append(data.draw(whole if data.draw(st.integers(0, chance)) else other))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(parts)))
        end = data.draw(st.integers(cut, len(parts)))
        if all(
            isinstance(part, slice) and part != slice(0, 1) and part.step is None for part in parts[cut:end]
        ):
            parts[cut:end] = [Ellipsis]
    return tuple(parts)


def getitem(data: st.DataObject, func: Any) -> Trial:
    if data.draw(st.integers(0, 3)) == 0:
        where = draw_held(data, kind="index")
        return Trial([Operand((3, 2)), where], lambda tensors, _: (tensors[0], tensors[1]))
    x = draw_held(data)
    index = _index(data, x)
    arrays = [part for part in index if isinstance(part, Tensor)]
    alone = index[0] if len(index) == 1 and data.draw(st.booleans()) else index
    return Trial(
        [x, *(Operand((2, 1), PUBLIC, "index", 1) for _ in arrays)], lambda tensors, _: (tensors[0], alone)
    )


def setitem(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    if data.draw(st.integers(0, 3)) == 0:
        mask = Operand(
            x.shape, x.label if data.draw(st.booleans()) else draw_label(data, len(x.shape)), "bool"
        )
        return Trial([x, mask], lambda tensors, _: (*tensors, 0.5))
    index = tuple(part for part in _index(data, x) if not isinstance(part, (Tensor, list)))
    if data.draw(st.booleans()):
        return Trial([x], lambda tensors, _: (tensors[0], index, 0.5))
    value = draw_partner(data, x)
    return Trial([x, value], lambda tensors, _: (tensors[0], index, tensors[1]))


def gather(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    assert isinstance(x.label, Records)
    ndim = len(x.shape)
    dim = data.draw(st.integers(-ndim, ndim - 1))
    index = Operand(x.shape, x.label, "index", 1)
    if data.draw(st.integers(0, 3)) == 0:
        index = draw_partner(data, x, kind="index", high=1)
    if func.__name__ == "gather":
        return Trial([x, index], lambda tensors, _: (tensors[0], dim, tensors[1]))
    return Trial([x, index], lambda tensors, _: (*tensors, dim))


def scatter(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    ndim, name = len(x.shape), func.__name__
    dim = data.draw(st.integers(-ndim, ndim - 1))
    index = Operand(x.shape, x.label, "index", 1)
    source = Operand(x.shape, x.label) if data.draw(st.booleans()) else draw_partner(data, x)
    if data.draw(st.integers(0, 3)) == 0:
        index = draw_partner(data, x, kind="index", high=1)
    if data.draw(st.integers(0, 3)) == 0:
        x = draw_partner(data, x)
    rest = ("sum",) if "reduce" in name else ()
    if name.removesuffix("_") == "scatter" and data.draw(st.booleans()):
        return Trial([x, index], lambda tensors, _: (tensors[0], dim, tensors[1], 0.5))
    return Trial([x, index, source], lambda tensors, _: (tensors[0], dim, *tensors[1:], *rest))


def index_select(data: st.DataObject, func: Any) -> Trial:
    if data.draw(st.booleans()):
        table, index = Operand((1, 2)), Operand((1,), draw_label(data, 1), "index", 1)
        return Trial([table, index], lambda tensors, _: (tensors[0], 0, tensors[1]))
    x = draw_held(data)
    dim = data.draw(st.integers(0, len(x.shape) - 1))
    return Trial([x, Operand((2,), PUBLIC, "index", 1)], lambda tensors, _: (tensors[0], dim, tensors[1]))


FAMILIES = {
    indexing.getitem: getitem,
    indexing.setitem: setitem,
    indexing.gather: gather,
    indexing.scatter: scatter,
    indexing.index_select: index_select,
}
TABLE = {func: FAMILIES[rule] for func, rule in RULES.items() if rule in FAMILIES}


@pytest.mark.parametrize("func", TABLE, ids=name_of)
def test_keeps_records_apart(func: Any) -> None:
    check_family(func, TABLE[func], examples=60)
