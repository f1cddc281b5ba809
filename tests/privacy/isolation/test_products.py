from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from torch import Tensor

from dpmi.privacy.isolation import products
from dpmi.privacy.isolation.functions import RULES
from dpmi.privacy.isolation.labels import PUBLIC, Public, Records

from .harness import Operand, Trial, check_family, draw_label, name_of


def _side(data: st.DataObject, shape: tuple[int, ...], of: Records | None) -> Operand:
    """One operand: records where the other one has them, elsewhere, or public values of some kind."""
    form = data.draw(st.sampled_from(["as the other", "anywhere", "anywhere", "public", "public", "follows"]))
    if form == "as the other" and of is not None and of.dim < len(shape):
        return Operand(shape, of)
    if form in ("as the other", "anywhere"):
        return Operand(shape, draw_label(data, len(shape)))
    if form == "follows":
        dim = data.draw(st.integers(0, len(shape) - 1))
        constant = frozenset({dim}) if data.draw(st.booleans()) else frozenset()
        return Operand(
            (*shape[:dim], of.before * of.within if of else 1, *shape[dim + 1 :]),
            Public(constant, frozenset({dim})),
        )
    shape = tuple(
        data.draw(st.sampled_from([n, 1])) if i < len(shape) - 2 else n for i, n in enumerate(shape)
    )
    return Operand(shape, PUBLIC)


def _pair(data: st.DataObject, ndims: tuple[int, int]) -> list[Operand]:
    sizes = {i: data.draw(st.integers(1, 3)) for i in range(-5, 0)}
    inner, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    shape_a = (*(sizes[i] for i in range(-ndims[0], -1)), inner)
    shape_b = (*(sizes[i] for i in range(-ndims[1], -2)), inner, columns) if ndims[1] > 1 else (inner,)
    swap = data.draw(st.integers(0, 3)) == 0
    first = Operand(shape_b if swap else shape_a)
    first.label = draw_label(data, len(first.shape))
    second = _side(data, shape_a if swap else shape_b, first.label)
    return [second, first] if swap else [first, second]


def _ndims(data: st.DataObject, name: str) -> tuple[int, int]:
    fixed = {
        "mm": (2, 2),
        "bmm": (3, 3),
        "mv": (2, 1),
        "addmm": (2, 2),
        "baddbmm": (3, 3),
        "addmv": (2, 1),
        "outer": (1, 1),
    }
    several = st.sampled_from(
        [(2, 2), (2, 2), (3, 3), (3, 2), (2, 3), (2, 1), (1, 2), (1, 3), (3, 1), (4, 4), (1, 1)]
    )
    return fixed.get(name.removesuffix("_")) or data.draw(several)


def matmul(data: st.DataObject, func: Any) -> Trial:
    operands = _pair(data, _ndims(data, func.__name__))
    return Trial(operands[::-1] if func.__name__ == "__rmatmul__" else operands)


def add_product(data: st.DataObject, func: Any) -> Trial:
    a, b = _pair(data, _ndims(data, func.__name__))
    one = a.shape[:-1] if len(b.shape) == 1 else (*a.shape[:-1], b.shape[-1])
    held = a.label if isinstance(a.label, Records) else b.label
    base = _side(data, one, held if isinstance(held, Records) else None)
    return Trial([base, a, b], keywords={"beta": 0.5})


def outer(data: st.DataObject, func: Any) -> Trial:
    held = Operand((1,), draw_label(data, 1))
    other = _side(data, (2,), held.label if isinstance(held.label, Records) else None)
    return Trial([held, other] if data.draw(st.booleans()) else [other, held])


def cdist(data: st.DataObject, func: Any) -> Trial:
    a, b = _pair(data, (data.draw(st.integers(2, 4)), data.draw(st.integers(2, 4))))
    if isinstance(b.label, Records):
        last = len(b.shape) - 1
        dim = {last: last - 1, last - 1: last}.get(b.label.dim, b.label.dim)
        b.label = Records(dim, b.label.before, b.label.within)
    else:
        b.label = PUBLIC
    b.shape = (*b.shape[:-2], b.shape[-1], b.shape[-2])
    return Trial([a, b])


def attention(data: st.DataObject, func: Any) -> Trial:
    ndim = data.draw(st.integers(3, 4))
    lead, (queries, keys) = (2,) * (ndim - 2), data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    q = Operand((*lead, queries, 4), draw_label(data, ndim))
    assert isinstance(q.label, Records)
    k, v = (_side(data, (*lead, keys, 4), q.label) for _ in range(2))
    operands = [q, k, v]
    if data.draw(st.booleans()):
        operands.append(_side(data, (*lead, queries, keys)[data.draw(st.integers(0, ndim - 2)) :], q.label))
    keywords: dict[str, Any] = {"is_causal": len(operands) == 3 and data.draw(st.booleans())}
    if data.draw(st.integers(0, 3)) == 0:
        keywords["enable_gqa"] = True
    return Trial(operands, keywords=keywords)


_EQUATIONS = [
    "bij,bjk->bik",
    "bhd,bkd->bhk",
    "ij,jk->ik",
    "ij,kj->ki",
    "bi,bi->b",
    "bi,bj->bij",
    "...i,...i->...",
]
_EQUATIONS += [
    "b...,b...->b...",
    "bi,ij",
    "...ij,jk->...ik",
    "bii,bi->b",
    "b i j , c j -> c b i",
    "ij,ij->ij",
    "ab,ba->a",
]


def einsum(data: st.DataObject, func: Any) -> Trial:
    equation = data.draw(st.sampled_from(_EQUATIONS))
    a, b = equation.replace(" ", "").split("->")[0].split(",")
    extra = {"...": data.draw(st.integers(0, 2))}
    ndims = [len(term.replace("...", "")) + (extra["..."] if "..." in term else 0) for term in (a, b)]
    first = Operand((2,) * max(ndims[0], 1), draw_label(data, max(ndims[0], 1)))
    operands = [
        first,
        _side(data, (2,) * max(ndims[1], 1), first.label if isinstance(first.label, Records) else None),
    ]

    def arguments(tensors: list[Tensor], _: int) -> tuple[Any, ...]:
        return equation, *tensors

    return Trial(operands, arguments)


FAMILIES = {
    products.matmul: matmul,
    products.add_product: add_product,
    products.outer: outer,
    products.cdist: cdist,
    products.attention: attention,
    products.einsum: einsum,
}
TABLE = {func: FAMILIES[rule] for func, rule in RULES.items() if rule in FAMILIES}


@pytest.mark.parametrize("func", TABLE, ids=name_of)
def test_keeps_records_apart(func: Any) -> None:
    check_family(func, TABLE[func], examples=100)
