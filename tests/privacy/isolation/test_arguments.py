"""What a call is made of: tensors, and values that say all of themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.privacy.isolation.arguments import operands, plain, writes_in_place
from dpmi.privacy.isolation.labels import Coupled


def name(_: Tensor) -> Any:
    return "tensor"


def test_operands_are_found_in_order_inside_lists_tuples_and_slices() -> None:
    a, b, c, d, e = (torch.zeros(()) for _ in range(5))
    found = operands((a, [b, (c, 1)], slice(None, d)), {"x": e, "y": "text", "z": [a]})
    assert [id(t) for t in found] == [id(t) for t in (a, b, c, d, e, a)]


def test_plain_values_of_different_types_are_different() -> None:
    found = {plain(v, name) for v in (1, 1.0, True, "1", None, torch.float32, Ellipsis)}
    assert len(found) == 7
    assert plain([1, torch.zeros(2)], name) == (1, "tensor") == plain((1, torch.ones(2)), name)
    assert plain(slice(1, None, 2), name) == (slice, 1, None, 2)
    assert plain(torch.Generator(), name) is torch.Generator


@pytest.mark.parametrize("value", [{"a": 1}, np.ones(2), {1}, object(), lambda: 1])
def test_what_could_carry_anything_is_refused(value: Any) -> None:
    with pytest.raises(
        Coupled, match=f"of type {type(value).__name__} is neither a tensor nor a plain value"
    ):
        plain(value, name)


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (Tensor.add_, True),
        (torch.relu_, True),
        (Tensor.__iadd__, True),
        (Tensor.__setitem__, True),
        (Tensor.add, False),
        (Tensor.__invert__, False),
        (Tensor.__int__, False),
        (Tensor.requires_grad_, False),
    ],
)
def test_names_say_what_writes_in_place(func: Any, expected: bool) -> None:
    assert writes_in_place(func, func.__name__, {}) is expected


def test_inplace_is_an_argument_of_some() -> None:
    assert writes_in_place(F.relu, "relu", {"inplace": True})
    assert not writes_in_place(F.relu, "relu", {"inplace": False})
