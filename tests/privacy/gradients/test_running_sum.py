"""The running sum: noise reaches every parameter, every gradient its own place, each times its own factor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.gradients.running_sum import RunningSum

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def parameters() -> list[nn.Parameter]:
    """Of three types, in turns; one has another layout."""
    plain = [nn.Parameter(torch.randn(3, 2).to(dtype)) for dtype in (*DTYPES, *DTYPES)]
    return [*plain, nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))]


def started(trained: list[nn.Parameter], noise: float = 0.0) -> RunningSum:
    total = RunningSum(trained)
    total.start(lambda flat: flat.fill_(noise))
    return total


def test_noise_reaches_every_parameter_whatever_its_type() -> None:
    trained = parameters()
    found = started(trained, noise=7.0).gradients()
    assert [g.shape for g in found] == [p.shape for p in trained]
    assert all(bool((g == 7.0).all()) for g in found)
    assert {g.dtype for g in found} == {torch.float32, torch.float64}


def test_every_place_has_noise_of_its_own() -> None:
    total = RunningSum(parameters())
    total.start(lambda flat: flat.normal_())
    values = torch.cat([g.double().flatten() for g in total.gradients()])
    assert len(values.unique()) == len(values) == sum(len(flat) for flat in total.flat)


@pytest.mark.parametrize("together", [True, False])
def test_gradients_are_added_to_the_noise_each_times_its_factor(together: bool) -> None:
    trained = parameters()
    total, factors = started(trained, noise=1.0), torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    rows: list[Tensor | None] = [torch.randn(3, *p.shape).to(p.dtype) for p in trained]
    rows[1] = None
    if together:
        total.add_rows(rows, factors)
    else:
        for i, factor in enumerate(factors.tolist()):
            total.add([None if row is None else row[i] for row in rows], factor)
    for row, p, found in zip(rows, trained, total.gradients(), strict=True):
        own = torch.zeros(3, *p.shape) if row is None else row
        expected = 1.0 + torch.tensordot(factors, own.double(), 1)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_new_step_begins_without_what_was_added() -> None:
    trained = parameters()
    total = started(trained, noise=1.0)
    total.add([torch.ones_like(p) for p in trained], 3.0)
    total.start(lambda flat: flat.fill_(2.0))
    assert all(bool((g == 2.0).all()) for g in total.gradients())
