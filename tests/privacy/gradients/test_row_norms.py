"""Norms that clipping rests on: never too small, whatever the size, the number and the scale of what they are of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpmi.privacy.gradients.row_norms import ROUNDING, row_norms

SHAPES = [(64,), (3,), (13, 11), (), (2**16 + 5,)]


def exact(rows: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(
        torch.cat([row.double().reshape(len(row), -1) for row in rows], dim=1), dim=1
    )


def of_shapes(k: int, scale: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(k, *shape or (1,), generator=generator) * scale).reshape(k, *shape).to(dtype)
        for shape in SHAPES
    ]


@pytest.mark.parametrize("scale", [1e-24, 1e-6, 1.0, 1e12])
@pytest.mark.parametrize("k", [1, 5])
def test_of_several_tensors_together_against_float64(k: int, scale: float) -> None:
    """At a scale of 1e-24 squares in float32 are zero, and the norm is what they could have been at most."""
    rows = of_shapes(k, scale)
    found = row_norms(rows)
    assert (found.shape, found.dtype) == ((k,), torch.float64)
    assert bool((found >= exact(rows) * (1 - ROUNDING / 4)).all())
    lost = math.sqrt(sum(row[0].numel() for row in rows)) * 2.0**-62
    torch.testing.assert_close(found, exact(rows), rtol=1e-6, atol=lost)
    if scale == 1e-24:
        assert float((found - exact(rows)).min()) > lost / 2


@pytest.mark.parametrize("left_out", range(len(SHAPES)))
@pytest.mark.parametrize("k", [1, 5])
def test_every_tensor_counts(k: int, left_out: int) -> None:
    rows = [torch.zeros_like(row) for row in of_shapes(k, 1.0)]
    rows[left_out][...] = 3.0
    torch.testing.assert_close(row_norms(rows), exact(rows), rtol=1e-6, atol=0)
    assert float(exact(rows).min()) >= 3.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_of_other_types(dtype: torch.dtype) -> None:
    rows = of_shapes(3, 1.0, dtype)
    torch.testing.assert_close(row_norms(rows), exact(rows), rtol=1e-6, atol=0)


def test_float64_loses_nothing_of_a_tiny_norm() -> None:
    rows = of_shapes(3, 1e-24, torch.float64)
    torch.testing.assert_close(row_norms(rows), exact(rows), rtol=1e-6, atol=0)


def test_of_equal_elements_is_not_too_small() -> None:
    """All roundings go one way here: the sum of 2^22 squares in float32 stops growing."""
    rows = [torch.full((1, 2**22), 1.0 + 2.0**-12)]
    assert float(row_norms(rows)) >= float(exact(rows)) * (1 - ROUNDING / 4)
