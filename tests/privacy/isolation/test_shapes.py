from __future__ import annotations

from math import prod
from typing import Any

import pytest
from hypothesis import strategies as st
from torch import Tensor

from dpmi.privacy.isolation import shapes
from dpmi.privacy.isolation.functions import RULES
from dpmi.privacy.isolation.labels import Records

from .harness import Operand, Trial, check_family, draw_held, draw_partner, name_of


def _dim(data: st.DataObject, ndim: int) -> int:
    return data.draw(st.integers(-ndim, ndim - 1))


def _regrouped(data: st.DataObject, x: Operand) -> Any:
    """Another shape of the same entries: factors in order, put together anew; one of them is the number of records."""
    assert isinstance(x.label, Records)
    factors: list[int] = []
    for dim, size in enumerate(x.shape):
        factors += [x.label.before, 0, x.label.within] if dim == x.label.dim else [size]
    ends = sorted(data.draw(st.lists(st.integers(0, len(factors)), max_size=4)))
    groups = [factors[a:b] for a, b in zip([0, *ends], [*ends, len(factors)], strict=True)]
    return lambda records: tuple(prod(each or records for each in group) for group in groups)


def _any_shape(data: st.DataObject, total: int) -> tuple[int, ...]:
    """Any other shape, which may divide the records."""
    first = data.draw(st.sampled_from([n for n in range(1, total + 1) if total % n == 0]))
    return first, total // first


def reshape(data: st.DataObject, func: Any) -> Trial:
    x, name = draw_held(data), func.__name__
    ndim = len(x.shape)
    if name == "ravel":
        return Trial([x])
    if name == "flatten":
        start, end = sorted(data.draw(st.tuples(st.integers(0, ndim - 1), st.integers(0, ndim - 1))))
        return Trial([x], lambda tensors, _: (*tensors, start, end))
    if name == "unflatten":
        dim = data.draw(st.integers(0, ndim - 1))
        if data.draw(st.booleans()):
            return Trial([x], lambda tensors, _: (*tensors, dim, (-1, 1)))
        parts = data.draw(st.sampled_from([(-1, 2), (2, -1), (3, -1)]))
        return Trial([x], lambda tensors, _: (*tensors, dim, parts))
    new = _regrouped(data, x)
    if data.draw(st.integers(0, 2)) == 0:
        records = data.draw(st.integers(1, 4))
        fixed = _any_shape(data, prod(x.size(records)))
        new = lambda _: fixed  # noqa: E731
    if name.endswith("_as"):
        return Trial([x, Operand((1,))], lambda tensors, n: (tensors[0], tensors[1].expand(new(n))))
    return Trial([x], lambda tensors, n: (*tensors, new(n)))


def squeeze(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    dim = _dim(data, len(x.shape))
    rest = () if data.draw(st.booleans()) else (dim,)
    return Trial([x], lambda tensors, _: (*tensors, *rest))


def unsqueeze(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    dim = _dim(data, len(x.shape) + 1)
    return Trial([x], lambda tensors, _: (*tensors, dim))


def permute(data: st.DataObject, func: Any) -> Trial:
    name = func.__name__
    flat = name == "t" or func in (Tensor.T.__get__, Tensor.H.__get__)
    x = draw_held(data, 2, 2 if flat else 4)
    ndim = len(x.shape)
    if name == "permute":
        dims = tuple(data.draw(st.permutations(range(ndim))))
        return Trial([x], lambda tensors, _: (*tensors, dims))
    if name in ("transpose", "swapaxes", "swapdims"):
        a, b = _dim(data, ndim), _dim(data, ndim)
        return Trial([x], lambda tensors, _: (*tensors, a, b))
    if name in ("movedim", "moveaxis"):
        many = data.draw(st.integers(1, ndim))
        source, target = (tuple(data.draw(st.permutations(range(ndim)))[:many]) for _ in range(2))
        if many == 1 and data.draw(st.booleans()):
            return Trial([x], lambda tensors, _: (*tensors, source[0], target[0]))
        return Trial([x], lambda tensors, _: (*tensors, source, target))
    return Trial([x])


def expand(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    label = x.label
    assert isinstance(label, Records)
    size = [data.draw(st.sampled_from([n, n, 3])) if n == 1 else n for n in x.shape]
    lead = data.draw(st.sampled_from([(), (2,)]))

    def new(records: int) -> tuple[int, ...]:
        here = list(size)
        here[label.dim] = label.before * records * label.within
        return (*lead, *here)

    if func.__name__ == "expand_as":
        return Trial([x, Operand((1,))], lambda tensors, n: (tensors[0], tensors[1].expand(new(n))))
    return Trial([x], lambda tensors, n: (*tensors, new(n)))


def repeat(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    if func.__name__ == "repeat_interleave":
        rest = (data.draw(st.integers(1, 3)), _dim(data, len(x.shape)))
        rest = rest[:1] if data.draw(st.integers(0, 3)) == 0 else rest
        return Trial([x], lambda tensors, _: (*tensors, *rest))
    least = len(x.shape) if func.__name__ == "repeat" else 1
    times = tuple(data.draw(st.lists(st.integers(1, 3), min_size=least, max_size=len(x.shape) + 1)))
    return Trial([x], lambda tensors, _: (*tensors, times))


def cat(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    others = [
        Operand(x.shape, x.label) if data.draw(st.booleans()) else draw_partner(data, x) for _ in range(2)
    ]
    operands = data.draw(st.permutations([x, *others]))
    dim = _dim(data, len(x.shape) + (func.__name__ == "stack"))
    return Trial(operands, lambda tensors, _: (tensors, dim))


def parts(data: st.DataObject, func: Any) -> Trial:
    x, name = draw_held(data), func.__name__
    dim = _dim(data, len(x.shape))
    number = data.draw(st.integers(1, 2))
    if name == "unbind":
        return Trial([x], lambda tensors, _: (*tensors, dim))
    if name == "select":
        return Trial([x], lambda tensors, _: (*tensors, dim, -number))
    if name == "narrow":
        return Trial([x], lambda tensors, _: (*tensors, dim, 0, 1))
    if name == "split_with_sizes":
        sizes = (1, x.shape[dim] - 1)
        return Trial([x], lambda tensors, _: (*tensors, sizes, dim))
    return Trial([x], lambda tensors, _: (*tensors, number, dim))


FAMILIES = {
    shapes.reshape: reshape,
    shapes.squeeze: squeeze,
    shapes.unsqueeze: unsqueeze,
    shapes.permute: permute,
    shapes.expand: expand,
    shapes.repeat: repeat,
    shapes.repeat_interleave: repeat,
    shapes.cat: cat,
} | dict.fromkeys((shapes.split, shapes.chunk, shapes.narrow, shapes.unbind, shapes.select), parts)
TABLE = {func: FAMILIES[rule] for func, rule in RULES.items() if rule in FAMILIES}


@pytest.mark.parametrize("func", TABLE, ids=name_of)
def test_keeps_records_apart(func: Any) -> None:
    check_family(func, TABLE[func], examples=60 if TABLE[func] is reshape else 24)
