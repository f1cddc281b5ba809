"""Whether a criterion is a mean or a sum: by its own account, and by calling it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.privacy.criterion import dry_reduction, reduction_of


class Own(nn.CrossEntropyLoss):
    pass


def hooked() -> nn.Module:
    criterion = nn.MSELoss()
    criterion.register_forward_hook(lambda module, args, out: out.sum())
    return criterion


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (nn.CrossEntropyLoss(), "mean"),
        (nn.CTCLoss(reduction="sum"), "sum"),
        (nn.TripletMarginLoss(reduction="none"), "none"),
        (nn.KLDivLoss(reduction="batchmean"), "mean"),
        (Own(), None),
        (hooked(), None),
        (nn.Linear(1, 1), None),
        (F.cross_entropy, None),
    ],
)
def test_what_a_criterion_says(criterion: Callable[..., Tensor], expected: str | None) -> None:
    assert reduction_of(criterion) == expected


@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_deprecated_arguments_are_in_the_reduction() -> None:
    assert reduction_of(nn.MSELoss(size_average=False)) == "sum"


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (F.cross_entropy, "mean"),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 30])), "mean"),
        (nn.CrossEntropyLoss(reduction="sum"), "sum"),
        (nn.CrossEntropyLoss(reduction="none"), "none"),
        (lambda x, y: F.cross_entropy(x, y, reduction="sum") / len(x), "mean"),
        (lambda x, y: F.cross_entropy(x, y) + 1, "mean"),
        (lambda x, y: F.cross_entropy(x, y, reduction="sum") + 1, None),
        (lambda x, y: F.cross_entropy(x, y) * len(x) ** 2, None),
        (lambda x, y: x.sum() * 0, None),
        (lambda x, y: x.sum() / 0, None),
        (lambda x, y: (x.sum(), y), None),
        (lambda x, y: y.sum(), None),
        (lambda x, y: x, None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_calls_show(
    criterion: Callable[[Tensor, Tensor], Any], expected: str | None, dtype: torch.dtype
) -> None:
    if isinstance(criterion, nn.CrossEntropyLoss):
        criterion = criterion.to(dtype)
    x = torch.randn(8, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.arange(8) % 3
    found = dry_reduction(criterion, (x, y), {}, records=8, rows_per_record=lambda _: 1)
    assert found == expected


@pytest.mark.parametrize(("reduction", "expected"), [("mean", "mean"), ("sum", "sum")])
def test_rows_within_a_record_are_copied_together(reduction: str, expected: str) -> None:
    x, y = torch.randn(12, 3), torch.arange(12) % 3
    y[1] = -100
    criterion = nn.CrossEntropyLoss(reduction=reduction)
    assert dry_reduction(criterion, (x, y), {}, records=4, rows_per_record=lambda _: 3) == expected


def test_nothing_reaches_the_outputs() -> None:
    x = torch.randn(4, 3, requires_grad=True)

    def criterion(x: Tensor) -> Tensor:
        loss = x.square().mean()
        loss.backward()
        return loss

    assert dry_reduction(criterion, (x,), {}, records=4, rows_per_record=lambda _: 1) == "mean"
    assert x.grad is None
