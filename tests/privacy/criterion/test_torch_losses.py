"""Torch's own losses of all buckets in one call equal a loop over the buckets, in values and gradients."""

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
from dpmi.privacy.criterion.torch_losses import torch_losses_by_bucket
from dpmi.privacy.gradients.segments import Segments

TOLERANCE = {torch.float32: 1e-6, torch.float64: 2e-15}
CLASSES = 5

sizes = st.lists(st.integers(1, 6), min_size=1, max_size=6) | st.tuples(
    st.integers(1, 8), st.integers(1, 6)
).map(lambda pair: [pair[1]] * pair[0])
dtypes = st.sampled_from(list(TOLERANCE))
seeds = st.integers(0, 2**32 - 1)
reductions = st.sampled_from(["mean", "sum"])


def looped(
    criterion: Callable[..., Tensor], x: Tensor, y: Tensor, sizes: list[int], reduction: str = "mean"
) -> Tensor:
    """One call per bucket; a bucket without a target that counts is 0 instead of 0 / 0."""
    values = [criterion(a, b) for a, b in zip(x.split(sizes), y.split(sizes), strict=True)]
    values = [v if v.dim() == 0 else getattr(v, reduction)() for v in values]
    return torch.stack([torch.zeros_like(v) if v.isnan() else v for v in values])


def compare(
    criterion: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    sizes: list[int],
    *,
    within: int = 1,
    reduction: str = "mean",
) -> None:
    """In one call against one call per bucket, relative to the largest value and the largest derivative."""
    segments = Segments(sizes)
    x.requires_grad_()
    fast = torch_losses_by_bucket(
        criterion, (x, y), {}, segments=segments, reduction=reduction, rows_per_record=lambda _: within
    )
    assert fast is not None
    slow = looped(criterion, x, y, [within * n for n in sizes], reduction)
    factors = torch.linspace(1, 2, len(sizes), dtype=x.dtype)
    close(fast, slow, TOLERANCE[x.dtype])
    if slow.requires_grad:
        (fast_grad,) = torch.autograd.grad(fast @ factors, x)
        (slow_grad,) = torch.autograd.grad(slow @ factors, x)
        close(fast_grad, slow_grad, TOLERANCE[x.dtype])


def close(one: Tensor, two: Tensor, tolerance: float) -> None:
    assert one.shape == two.shape
    assert one.dtype == two.dtype
    assert float((one - two).detach().abs().max()) <= tolerance * max(float(two.detach().abs().max()), 1e-3)


@settings(max_examples=80, deadline=None)
@given(
    sizes=sizes,
    dtype=dtypes,
    seed=seeds,
    reduction=reductions,
    within=st.integers(1, 3),
    extra=st.sampled_from([(), (1,), (3,), (2, 2)]),
    weighted=st.booleans(),
    ignored=st.sampled_from([0.0, 0.5, 0.95]),
    ignore_index=st.sampled_from([-100, 0]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    kind=st.sampled_from(["cross_entropy", "probabilities", "nll"]),
)
def test_losses_over_classes(
    sizes: list[int],
    dtype: torch.dtype,
    seed: int,
    reduction: str,
    within: int,
    extra: tuple[int, ...],
    weighted: bool,
    ignored: float,
    ignore_index: int,
    smoothing: float,
    kind: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes) * within
    x = torch.randn(rows, CLASSES, *extra, dtype=dtype, generator=generator)
    y = torch.randint(0, CLASSES, (rows, *extra), generator=generator)
    y[torch.rand(y.shape, generator=generator) < ignored] = ignore_index
    weight = torch.rand(CLASSES, dtype=dtype, generator=generator) + 0.1 if weighted else None
    if kind == "probabilities":
        y = torch.rand(x.shape, dtype=dtype, generator=generator).softmax(1)
        ignore_index = -100  # as torch demands
    options: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
    if kind == "nll":
        # Logarithms of probabilities, as this loss expects: a sum of both signs may cancel down to its rounding.
        compare(nn.NLLLoss(**options), x.log_softmax(1), y, sizes, within=within)
    else:
        compare(nn.CrossEntropyLoss(label_smoothing=smoothing, **options), x, y, sizes, within=within)


ELEMENTWISE: dict[str, Callable[[str], nn.Module]] = {
    "mse": lambda r: nn.MSELoss(reduction=r),
    "l1": lambda r: nn.L1Loss(reduction=r),
    "smooth l1": lambda r: nn.SmoothL1Loss(reduction=r, beta=0.3),
    "huber": lambda r: nn.HuberLoss(reduction=r, delta=0.4),
    "kl": lambda r: nn.KLDivLoss(reduction=r),
    "kl, log target": lambda r: nn.KLDivLoss(reduction=r, log_target=True),
    "bce": lambda r: nn.BCELoss(reduction=r),
    "bce with logits": lambda r: nn.BCEWithLogitsLoss(reduction=r),
    "poisson": lambda r: nn.PoissonNLLLoss(reduction=r),
    "poisson, full": lambda r: nn.PoissonNLLLoss(log_input=False, full=True, eps=1e-3, reduction=r),
    "soft margin": lambda r: nn.SoftMarginLoss(reduction=r),
    "hinge embedding": lambda r: nn.HingeEmbeddingLoss(margin=0.5, reduction=r),
}


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("name", ELEMENTWISE)
@settings(max_examples=20, deadline=None)
@given(
    sizes=sizes,
    dtype=dtypes,
    seed=seeds,
    reduction=reductions,
    within=st.integers(1, 3),
    extra=st.sampled_from([(), (1,), (3,), (2, 3)]),
)
def test_losses_of_every_element(
    name: str,
    sizes: list[int],
    dtype: torch.dtype,
    seed: int,
    reduction: str,
    within: int,
    extra: tuple[int, ...],
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        torch.rand(2, sum(sizes) * within, *extra, dtype=dtype, generator=generator)
        .clamp(0.01, 0.99)
        .unbind()
    )
    if name in {"soft margin", "hinge embedding"}:
        y = y.sub(0.5).sign()
    compare(ELEMENTWISE[name](reduction), x.clone(), y.clone(), sizes, within=within)


@settings(max_examples=40, deadline=None)
@given(sizes=sizes, dtype=dtypes, seed=seeds, reduction=reductions, logits=st.booleans(), lead=st.booleans())
def test_binary_weights_of_features(
    sizes: list[int], dtype: torch.dtype, seed: int, reduction: str, logits: bool, lead: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, sum(sizes), 3, 4, dtype=dtype, generator=generator).clamp(0.01, 0.99).unbind()
    weight = torch.rand(*([1] if lead else []), 3, 4, dtype=dtype, generator=generator) + 0.1
    pos_weight = torch.rand(4, dtype=dtype, generator=generator) + 0.1
    criterion: nn.Module
    if logits:
        criterion = nn.BCEWithLogitsLoss(weight=weight, pos_weight=pos_weight, reduction=reduction)
    else:
        criterion = nn.BCELoss(weight=weight, reduction=reduction)
    compare(criterion, x.clone(), y.clone(), sizes)


@settings(max_examples=20, deadline=None)
@given(sizes=sizes, dtype=dtypes, seed=seeds, within=st.integers(1, 3))
def test_batchmean_divides_by_the_rows(sizes: list[int], dtype: torch.dtype, seed: int, within: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, sum(sizes) * within, 3, dtype=dtype, generator=generator).softmax(2).unbind()
    compare(nn.KLDivLoss(reduction="batchmean"), x.log(), y.clone(), sizes, within=within)


@settings(max_examples=20, deadline=None)
@given(sizes=sizes, dtype=dtypes, seed=seeds, reduction=reductions)
def test_one_value_per_record_is_reduced_as_told(
    sizes: list[int], dtype: torch.dtype, seed: int, reduction: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), CLASSES, dtype=dtype, generator=generator)
    y = torch.randint(-1, CLASSES, (sum(sizes),), generator=generator)
    weight = torch.rand(CLASSES, dtype=dtype, generator=generator)
    criterion = nn.CrossEntropyLoss(weight=weight, ignore_index=-1, reduction="none")
    compare(criterion, x, y, sizes, reduction=reduction)


FUNCTIONS = {
    "cross_entropy": (F.cross_entropy, {"label_smoothing": 0.1}),
    "nll_loss": (F.nll_loss, {"reduction": "sum"}),
    "mse_loss": (F.mse_loss, {}),
    "kl_div": (F.kl_div, {"reduction": "batchmean"}),
    "huber_loss": (F.huber_loss, {"delta": 0.1}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_known_with_the_arguments_of_the_call(name: str) -> None:
    function, options = FUNCTIONS[name]
    segments = Segments([2, 5, 1])
    x = torch.rand(8, CLASSES, dtype=torch.float64).requires_grad_()
    y = torch.arange(8) % CLASSES if name in {"cross_entropy", "nll_loss"} else torch.rand_like(x)
    for args, kwargs in (((x, y), options), ((x,), {"target": y, **options})):
        fast = torch_losses_by_bucket(
            function, args, kwargs, segments=segments, reduction="mean", rows_per_record=lambda _: 1
        )
        assert fast is not None
        slow = looped(lambda a, b: function(a, b, **options), x, y, [2, 5, 1])
        close(fast, slow, 2e-15)


def test_a_module_called_by_keyword() -> None:
    x = torch.rand(4, requires_grad=True)
    y = torch.rand(4)
    fast = torch_losses_by_bucket(
        nn.PoissonNLLLoss(),
        (),
        {"target": y, "log_input": x},
        segments=Segments([1, 3]),
        reduction="mean",
        rows_per_record=lambda _: 1,
    )
    assert fast is not None
    close(fast, looped(nn.PoissonNLLLoss(), x, y, [1, 3]), 1e-6)


def test_wrong_arguments_are_torch_s_error() -> None:
    x = torch.rand(4, requires_grad=True)
    for criterion, message in (
        (nn.MSELoss(), "missing 1 required positional"),
        (F.mse_loss, "missing 1 required"),
    ):
        with pytest.raises(TypeError, match=message):
            losses_by_bucket(
                criterion,
                (x,),
                {},
                segments=Segments([1, 3]),
                reduction="mean",
                rows_per_record=lambda _: 1,
            )


class Own(nn.CrossEntropyLoss):
    """A subclass, whose forward may be anything."""


def hooked() -> nn.Module:
    criterion = nn.CrossEntropyLoss()
    criterion.register_forward_hook(lambda module, args, out: out * 2)
    return criterion


def prehooked() -> nn.Module:
    criterion = nn.CrossEntropyLoss()
    criterion.register_forward_pre_hook(lambda module, args: (args[0] * 2, args[1]))
    return criterion


def overridden() -> nn.Module:
    criterion = nn.CrossEntropyLoss()
    criterion.forward = lambda x, y: F.cross_entropy(x, y) * 2  # type: ignore[method-assign]
    return criterion


@pytest.mark.parametrize(
    ("criterion", "factor"), [(Own(), 1), (hooked(), 2), (overridden(), 2), (prehooked(), None)]
)
def test_what_is_not_exactly_torch_s_is_called(criterion: nn.Module, factor: float | None) -> None:
    x = torch.randn(6, CLASSES, requires_grad=True)
    y = torch.arange(6) % CLASSES
    options: dict[str, Any] = {
        "segments": Segments([2, 4]),
        "reduction": "mean",
        "rows_per_record": lambda _: 1,
    }
    assert torch_losses_by_bucket(criterion, (x, y), {}, **options) is None
    scaled = x * 2 if factor is None else x
    expected = looped(F.cross_entropy, scaled, y, [2, 4]) * (factor or 1)
    assert losses_by_bucket(criterion, (x, y), {}, **options).tolist() == expected.tolist()


def test_hooks_of_all_modules_are_called() -> None:
    x, y = torch.randn(3, CLASSES, requires_grad=True), torch.arange(3)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 2)
    try:
        found = losses_by_bucket(
            nn.CrossEntropyLoss(),
            (x, y),
            {},
            segments=Segments([1, 2]),
            reduction="mean",
            rows_per_record=lambda _: 1,
        )
    finally:
        handle.remove()
    close(found, 2 * looped(F.cross_entropy, x, y, [1, 2]), 1e-6)


ROWS, WHOLE = 6, torch.rand(6)
LEFT_TO_A_LOOP = {
    "broadcast over records": (nn.MSELoss(), torch.rand(6, 1), torch.rand(6)),
    "target without records": (nn.MSELoss(), torch.rand(6), WHOLE),
    "weights of records": (nn.BCELoss(weight=torch.rand(6, 1)), torch.rand(6, 2), torch.rand(6, 2)),
    "other rows": (nn.MSELoss(), torch.rand(6), torch.rand(12)),
    "deprecated arguments": (
        lambda a, b: F.mse_loss(a, b, size_average=False),
        torch.rand(6),
        torch.rand(6),
    ),
}


@pytest.mark.parametrize("name", LEFT_TO_A_LOOP)
@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_what_may_differ_within_a_bucket_is_left_to_a_loop(name: str) -> None:
    criterion, x, y = LEFT_TO_A_LOOP[name]
    found = torch_losses_by_bucket(
        criterion,
        (x, y),
        {},
        segments=Segments([2, 4]),
        reduction="mean",
        rows_per_record=lambda tensor: None if tensor is WHOLE else len(tensor) // ROWS,
    )
    assert found is None


def test_a_weight_that_holds_records_is_left_to_a_loop() -> None:
    x, y, weight = torch.rand(6, 6), torch.rand(6, 6), torch.rand(6)
    for holds, found in ((True, None), (False, (2,))):
        losses = torch_losses_by_bucket(
            F.binary_cross_entropy,
            (x, y),
            {"weight": weight},
            segments=Segments([2, 4]),
            reduction="mean",
            rows_per_record=lambda tensor, holds=holds: None if tensor is weight and not holds else 1,
        )
        assert (None if losses is None else losses.shape) == found


@pytest.mark.filterwarnings("ignore:size_average and reduce", "ignore:Using a target size")
def test_deprecated_arguments_and_broadcasting_as_in_a_loop() -> None:
    x, y = torch.rand(6, 1, requires_grad=True), torch.rand(6)
    options: dict[str, Any] = {
        "segments": Segments([2, 4]),
        "reduction": "mean",
        "rows_per_record": lambda _: 1,
    }
    broadcast = losses_by_bucket(nn.MSELoss(), (x, y), {}, **options)
    assert broadcast.tolist() == looped(nn.MSELoss(), x, y, [2, 4]).tolist()
    summed = losses_by_bucket(F.mse_loss, (x[:, 0], y), {"size_average": False}, **options)
    expected = looped(lambda a, b: F.mse_loss(a, b, reduction="sum"), x[:, 0], y, [2, 4])
    assert summed.tolist() == expected.tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.0, 1, 2, 3, 4])])
def test_a_bucket_without_a_target_has_loss_and_gradient_zero(
    smoothing: float, weight: Tensor | None
) -> None:
    x = torch.randn(6, CLASSES, requires_grad=True)
    y = torch.tensor([-100, -100, 1, -100, 2, 3])
    criterion = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    losses = losses_by_bucket(
        criterion, (x, y), {}, segments=Segments([2, 2, 2]), reduction="mean", rows_per_record=lambda _: 1
    )
    assert losses[0] == 0
    assert float(losses[1].detach()) == pytest.approx(float(criterion(x[2:4], y[2:4]).detach()), rel=1e-6)
    losses.sum().backward()
    assert x.grad is not None
    assert x.grad[:2].tolist() == [[0] * CLASSES] * 2
    assert (x.grad[4:] != 0).all()


def test_class_weight_zero_counts_as_ignored() -> None:
    x = torch.randn(4, 2, requires_grad=True)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0]))
    losses = losses_by_bucket(
        criterion,
        (x, torch.tensor([0, 0, 0, 1])),
        {},
        segments=Segments([2, 2]),
        reduction="mean",
        rows_per_record=lambda _: 1,
    )
    assert losses.tolist() == [
        0,
        pytest.approx(float(F.cross_entropy(x[3:], torch.tensor([1])).detach()), rel=1e-6),
    ]


def test_a_nan_of_another_origin_stays() -> None:
    x = torch.randn(4, CLASSES)
    x[1, 2] = torch.nan
    losses = losses_by_bucket(
        nn.CrossEntropyLoss(),
        (x.requires_grad_(), torch.tensor([-100, 0, 1, 2])),
        {},
        segments=Segments([2, 2]),
        reduction="mean",
        rows_per_record=lambda _: 1,
    )
    assert losses.isnan().tolist() == [True, False]


def test_autocast_does_not_sum_in_sixteen_bits() -> None:
    x, y = torch.randn(40, CLASSES, requires_grad=True), torch.arange(40) % CLASSES
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_by_bucket(
            nn.CrossEntropyLoss(),
            (x, y),
            {},
            segments=Segments([3, 37]),
            reduction="mean",
            rows_per_record=lambda _: 1,
        )
    close(losses, looped(F.cross_entropy, x, y, [3, 37]), 1e-6)
