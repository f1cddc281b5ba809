"""The user's criterion, called for one bucket at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.privacy.criterion import losses_by_bucket
from dpmi.privacy.gradients.segments import Segments

SIZES = [2, 1, 3]


def losses(
    criterion: Callable[..., Any],
    *args: Any,
    sizes: list[int] = SIZES,
    reduction: str = "mean",
    within: int = 1,
    **kwargs: Any,
) -> Tensor:
    return losses_by_bucket(
        criterion,
        args,
        kwargs,
        segments=Segments(sizes),
        reduction=reduction,
        rows_per_record=lambda _: within,
    )


def outputs(records: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(records, 4, dtype=torch.float64, generator=generator).requires_grad_()


def contrastive(x: Tensor, y: Tensor) -> Tensor:
    """Couples all records that it sees."""
    return ((x - x.mean(0)) * y[:, None]).square().sum() + len(x)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_bucket_s_loss_and_gradient_are_those_of_its_records_alone(sizes: list[int], seed: int) -> None:
    x, y = outputs(sum(sizes), seed), torch.arange(sum(sizes)) + 1.0
    found = losses(contrastive, x, y, sizes=sizes)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    for i, (a, b) in enumerate(zip(x.detach().split(sizes), y.split(sizes), strict=True)):
        a.requires_grad_()
        alone = contrastive(a, b)
        alone.backward()
        assert float(found[i].detach()) == float(alone.detach())
        assert a.grad is not None
        assert gradient.split(sizes)[i].equal(a.grad)


def test_another_bucket_moves_nothing() -> None:
    x, y = outputs(), torch.ones(6)
    before = torch.autograd.grad(losses(contrastive, x, y)[0], x)[0][:2]
    with torch.no_grad():
        x[2:] += 100
    found = losses(contrastive, x, y)
    assert found[0] == losses(contrastive, x[:2], y[:2], sizes=[2])[0]
    after = torch.autograd.grad(found[0], x)[0]
    assert after[:2].equal(before)
    assert not after[2:].any()


@pytest.mark.parametrize(("reduction", "expected"), [("mean", [0.5, 2, 4]), ("sum", [1, 2, 12])])
def test_one_value_per_record_is_reduced_as_told(reduction: str, expected: list[float]) -> None:
    x = torch.arange(6.0).requires_grad_()
    assert losses(lambda x: x, x, reduction=reduction).tolist() == expected


def test_rows_within_a_record_and_structures() -> None:
    x, y = torch.randn(24, 5, requires_grad=True), torch.arange(24) % 5

    def criterion(out: dict[str, Tensor], labels: Tensor) -> Tensor:
        return F.cross_entropy(out["logits"], labels)

    found = losses(criterion, {"logits": x}, labels=y, within=4)
    expected = [F.cross_entropy(a, b) for a, b in zip(x.split([8, 4, 12]), y.split([8, 4, 12]), strict=True)]
    assert found.tolist() == [float(e.detach()) for e in expected]


def test_the_fast_path_is_that_of_torch_s_own_losses() -> None:
    calls = 0

    class Counting(nn.CrossEntropyLoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(input, target)

    x, y = outputs(), torch.arange(6) % 4
    assert losses(Counting(), x, y).tolist() == pytest.approx(
        losses(nn.CrossEntropyLoss(), x, y).tolist(), rel=2e-15
    )
    assert calls == 3


def test_a_single_bucket_takes_any_arguments() -> None:
    class Own:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    x = outputs()
    found = losses(lambda own, names: own.x.mean() * len(names), Own(x), ["a", "b"], sizes=[6])
    assert found.tolist() == [2 * float(x.detach().mean())]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (lambda x: None, TypeError, r"returned a NoneType for a bucket of 2 records.*shape \(2,\)"),
        (lambda x: (x.sum(), x), TypeError, "returned a tuple"),
        (lambda x: float(x.detach().sum()), TypeError, "returned a float for.*floating-point tensor"),
        (lambda x: x, ValueError, r"returned shape \(2, 4\) for a bucket of 2 records"),
        (lambda x: x.sum(1)[:1], ValueError, r"returned shape \(1,\)"),
        (lambda x: x.sum() * 1j, TypeError, "a tensor of torch.complex128"),
        (lambda x: x.argmax(), TypeError, "a tensor of torch.int64"),
        (lambda x: x.detach().sum(), ValueError, "must depend on outputs of the private model"),
    ],
)
def test_what_is_no_loss_is_refused(
    value: Callable[[Tensor], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        losses(value, outputs())


def test_targets_alone_are_no_loss_of_torch_either() -> None:
    with pytest.raises(ValueError, match="loss of 3 buckets does not require a gradient"):
        losses(nn.MSELoss(), torch.rand(6), torch.rand(6))


def test_one_bucket_may_have_a_constant_loss() -> None:
    x = torch.tensor([-1.0, -1, -1, 2, 3, 4]).requires_grad_()
    found = losses(lambda x: x[x > 0].sum() if (x > 0).any() else torch.zeros(()), x)
    assert found.tolist() == [0, 0, 9]


def test_without_gradients_any_loss_is_a_loss() -> None:
    with torch.no_grad():
        assert losses(lambda x: x.sum(), torch.ones(6)).tolist() == [2, 1, 3]


def test_a_user_s_nan_stays() -> None:
    x = torch.tensor([-1.0, -1, -1, 2, 3, 4]).requires_grad_()
    assert losses(lambda x: x[x > 0].mean(), x).isnan().tolist() == [True, True, False]


def test_weights_of_records_are_split_with_them() -> None:
    x, y = torch.rand(6, requires_grad=True), torch.rand(6)
    weight = torch.arange(1.0, 7)
    found = losses(F.binary_cross_entropy, x, y, weight=weight)
    expected = [
        F.binary_cross_entropy(a, b, weight=w)
        for a, b, w in zip(x.split(SIZES), y.split(SIZES), weight.split(SIZES), strict=True)
    ]
    assert found.tolist() == [float(e.detach()) for e in expected]
