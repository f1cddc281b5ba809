from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dpmi.privacy.isolation import elementwise
from dpmi.privacy.isolation.functions import RULES
from dpmi.privacy.isolation.labels import PUBLIC
from dpmi.privacy.isolation.operands import words

from .harness import Operand, Trial, check_family, draw_held, draw_partner, name_of

_THREE = {"addcmul", "addcdiv", "where", "lerp", "clamp", "clip"}
_INTEGERS = words(
    """bitwise_not bitwise_and bitwise_or bitwise_xor __invert__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__
    __iand__ __ior__ __ixor__"""
)
_REST: dict[str, tuple[Any, ...]] = {"threshold": (0.3, 0.2), "_threshold": (0.3, 0.2), "geometric_": (0.5,)}
_ONE_OPERAND = {name.removesuffix("_") for name in elementwise._ONE} | set(elementwise._ONE)
_DRAWN_LATER = {"dropout": (0.5, True), "feature_dropout": (0.5, True), "alpha_dropout": (0.5, True)}


def _bare(func: Any) -> str:
    name = func.__name__
    return name if name.endswith("__") else name.removesuffix("_") or name


def entrywise(data: st.DataObject, func: Any) -> Trial:
    name = _bare(func)
    kind = "index" if name in _INTEGERS else "unit"
    first = draw_held(data, kind=kind)
    if func.__name__ in _REST or name in _REST:
        rest = _REST.get(func.__name__, _REST.get(name, ()))
        return Trial([first], lambda tensors, _: (*tensors, *rest))
    if name in _ONE_OPERAND or func.__name__ in _ONE_OPERAND or name == "log_sigmoid":
        return Trial(
            [first], keywords={"inplace": data.draw(st.booleans())} if func in (F.relu, F.silu) else {}
        )
    if name == "fill":
        return Trial([first], lambda tensors, _: (*tensors, 0.5))
    if name == "masked_fill":
        return Trial([first, draw_partner(data, first, kind="bool")], lambda tensors, _: (*tensors, 0.5))
    operands = [first] + [draw_partner(data, first, kind=kind) for _ in range(2 if name in _THREE else 1)]
    if name == "where":
        if func is Tensor.where:
            operands[1].kind = "bool"
        else:
            operands[0].kind = "bool"
    elif data.draw(st.booleans()) and not func.__name__.endswith("_"):
        operands = operands[::-1]
    return Trial(operands)


def drawn(data: st.DataObject, func: Any) -> Trial:
    name = _bare(func)
    first = draw_held(data, 3, 4)
    rest: tuple[Any, ...] = _DRAWN_LATER.get(name, _DRAWN_LATER.get(func.__name__, ()))
    if name == "normal" and func is torch.normal:
        return Trial([first, draw_partner(data, first)], drawn=True)
    if name.startswith("feature_alpha"):
        rest = (0.5, True)
    if name == "geometric":
        rest = (0.5,)
    return Trial([first], lambda tensors, _: (*tensors, *rest), drawn=True)


def cast_to(data: st.DataObject, func: Any) -> Trial:
    rest = {"to": (torch.float32,), "type": (torch.float32,), "type_as": (torch.zeros(3),)}.get(
        func.__name__, ()
    )
    first = draw_held(data)
    if func.__name__ == "type_as":
        return Trial([first, Operand((3,), PUBLIC, "bool")])
    if func.__name__ == "cuda":
        return Trial([first], lambda tensors, _: (*tensors, "cpu"))
    return Trial([first], lambda tensors, _: (*tensors, *rest))


def like(data: st.DataObject, func: Any) -> Trial:
    rest = {"full_like": (0.5,), "randint_like": (5,)}.get(func.__name__, ())
    return Trial([draw_held(data)], lambda tensors, _: (*tensors, *rest), drawn=True)


def prelu(data: st.DataObject, func: Any) -> Trial:
    first = draw_held(data, 2, 4)
    channels = data.draw(st.sampled_from([1, first.shape[1]]))
    return Trial([first, Operand((channels,))])


FAMILIES = {
    elementwise.elementwise: entrywise,
    elementwise.drawn: drawn,
    elementwise.cast_to: cast_to,
    elementwise.like: like,
    elementwise.prelu: prelu,
}
# No device to move to; nothing to compute.
TABLE = {func: FAMILIES[rule] for func, rule in RULES.items() if rule in FAMILIES}
_CHECKED = [func for func in TABLE if func is not Tensor.cuda]


@pytest.mark.parametrize("func", _CHECKED, ids=name_of)
def test_keeps_records_apart(func: Any) -> None:
    check_family(func, TABLE[func], examples=12)
