"""What is in 16 bits, and what is not."""

from __future__ import annotations

import pytest
import torch

from dpmi.precision import check_precision, forward_in, widened


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_forward_passes_are_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    check_precision(precision)
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    with forward_in(precision, x.device):  # type: ignore[arg-type]
        found = layer(x)
    assert found.dtype == dtype
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("wrong", ["fp16", "", None, 16])
def test_another_precision_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=f"precision must be 'float32' or 'bf16'; got {wrong!r}"):
        check_precision(wrong)


def test_values_are_widened_and_never_narrowed() -> None:
    x = torch.tensor([1.25], dtype=torch.bfloat16, requires_grad=True)
    found = widened(x)
    assert found.dtype == torch.float32
    found.square().sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 2.5
    for dtype in (torch.float32, torch.float64):
        same = torch.ones(1, dtype=dtype)
        assert widened(same) is same
