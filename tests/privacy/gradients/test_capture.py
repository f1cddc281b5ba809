"""What a capture does with the graph, with other uses of a parameter, and in finite precision.

Modules: dpmi/privacy/gradients/capture.py, dpmi/privacy/gradients/recomputed.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from opacus.layers import DPLSTM
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dpmi.privacy.gradients.capture import Capture
from dpmi.privacy.gradients.factors import Factors
from dpmi.privacy.gradients.linear import Linear
from dpmi.privacy.gradients.recomputed import RowsOfLayer
from dpmi.privacy.gradients.segments import Segments
from dpmi.privacy.isolation.labels import Coupled, Public, Records
from dpmi.privacy.isolation.program import Program
from dpmi.privacy.isolation.public import PublicTensors

from .test_layers import (
    Attention,
    Recurrent,
    Tied,
    Twice,
    brute_force,
    capture_of,
    floats,
    loss_of,
    relative_error,
    run,
    send_back,
    tokens,
    trained,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rows_of(module: nn.Module, capture: Capture) -> dict[str, Tensor]:
    return {name: capture.rows[p] for name, p in module.named_parameters() if p in capture.rows}


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (lambda: nn.Linear(5, 3), floats(4, 5)),
        (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), floats(2, 7, 6)),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), floats(4, 9)),
        (lambda: nn.Embedding(9, 4), tokens(6)),
        (lambda: nn.LayerNorm(5), floats(4, 5)),
        (lambda: nn.GroupNorm(2, 4), floats(4, 3, 3)),
        (lambda: nn.InstanceNorm2d(3, affine=True), floats(3, 4, 3)),
        (lambda: Recurrent(DPLSTM(4, 3, batch_first=True)), floats(3, 4)),
        (Attention, floats(3, 4)),
    ],
)
def test_buckets_of_one_record_equal_opacus(
    make: Callable[[], nn.Module], draw: Callable[[int], Tensor]
) -> None:
    module, x = make(), draw(5)
    capture = capture_of(module, [1] * 5)
    send_back(loss_of(run(module, x, capture)), capture)
    theirs = GradSampleModule(module, loss_reduction="sum")
    loss_of(theirs(x)).backward()
    expected = {name: p.grad_sample.double() for name, p in module.named_parameters()}  # type: ignore[attr-defined]
    assert relative_error(rows_of(module, capture), expected) < 1e-5


def test_backward_passes_add_up_until_they_are_cleared() -> None:
    module, x, sizes = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(6, 5), [2, 4]
    capture = capture_of(module, sizes)
    assert capture.is_empty
    first, second = run(module, x, capture), run(module, x, capture)
    send_back(loss_of(first), capture, keep=True)
    send_back(loss_of(first), capture)
    send_back(loss_of(second), capture)
    expected = {name: 3.0 * rows for name, rows in brute_force(module, x, sizes).items()}
    assert relative_error(rows_of(module, capture), expected) < 1e-5
    assert not capture.is_empty
    capture.clear()
    assert capture.is_empty


def test_a_parameter_that_was_not_reached_is_absent() -> None:
    module, x = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)]), torch.randn(4, 5)
    capture = capture_of(module, [2, 2])
    _, out = run(lambda x: (module[0](x), module[1](x)), x, capture)  # type: ignore[arg-type, return-value]
    send_back(out.sum(), capture)
    assert rows_of(module, capture).keys() == {"1.weight", "1.bias"}


def test_nothing_is_captured_without_gradients_or_outside() -> None:
    module, x = nn.Linear(5, 3), torch.randn(4, 5)
    capture = capture_of(module, [2, 2], ghost=True)
    with torch.no_grad():
        assert not run(module, x, capture).requires_grad
        assert not run(module, x, capture).requires_grad
    module(x).sum().backward()
    assert capture.is_empty
    assert module.weight.grad is not None


class Derived(nn.Module):
    """A layer whose weight is computed from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))
        self.child = nn.Identity()  # modules without children are run bucket by bucket

    def forward(self, x: Tensor) -> Tensor:
        return self.child(F.linear(x, 2 * self.weight))


class Doubled(torch.autograd.Function):
    """Code whose backward pass could do anything."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


def _dropped(p: Tensor, x: Tensor) -> Tensor:
    """Every record has a draw of its own, so the gradients of equal lines differ."""
    return x + F.dropout(p.expand(len(x), 3, 5), 0.5)


def _written(p: Tensor, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = p
    return x


OTHER_USES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "einsum": (lambda p, x: torch.einsum("nij,j->ni", x, p), "parameter 'p' is used by einsum"),
    "a vector": (lambda p, x: x @ p, "parameter 'p' is used by matmul"),
    "from the left": (lambda p, x: p.tanh() @ x.mT, "a tensor computed from parameters is used by matmul"),
    "an index": (_written, "parameter 'p' is used by __setitem__"),
    "a draw for each record": (_dropped, "a tensor computed from parameters is used by add"),
    "own code": (lambda p, x: x + Doubled.apply(p), "origin|custom autograd function"),
    "own code before": (lambda p, x: x + Doubled.apply(p) * 1, "origin|custom autograd function"),
    "another tensor": (lambda p, x: x + p * ELSEWHERE, "origin of a tensor"),
}
ELSEWHERE = torch.ones(5, requires_grad=True)


class Using(nn.Module):
    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(5))
        self.use = use
        self.child = nn.Identity()  # modules without children may be run bucket by bucket

    def forward(self, x: Tensor) -> Tensor:
        return self.child(self.use(self.p, x))


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize("case", OTHER_USES)
def test_other_uses_of_parameters_are_refused(case: str, ghost: bool) -> None:
    use, match = OTHER_USES[case]
    module = Using(use)
    capture = capture_of(module, [2, 2], ghost=ghost)
    with pytest.raises(Coupled, match=match):
        run(module, torch.randn(4, 3, 5), capture)
    assert capture.problem is not None


def test_a_parameter_with_a_hook_is_refused_where_other_values_come_from_it() -> None:
    module = Using(lambda p, x: x + p.tanh())
    module.p.register_hook(lambda g: g - g.mean(0))  # type: ignore[no-untyped-call]
    with pytest.raises(Coupled, match="parameter 'p' has a hook"):
        run(module, torch.randn(4, 3, 5), capture_of(module, [2, 2]))


def test_another_operand_of_a_layer_that_is_trained_is_refused() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.weights = nn.Parameter(torch.rand(1, 3))

        def forward(self, x: Tensor) -> Tensor:
            weights = self.weights.expand(len(x), 3)
            return F.embedding_bag(x, self.table.weight, mode="sum", per_sample_weights=weights)

    module = Weighted()
    with pytest.raises(Coupled, match="a tensor computed from parameters is used by embedding_bag"):
        run(module, torch.zeros(4, 3, dtype=torch.int64), capture_of(module, [2, 2]))


def test_a_parameter_that_passes_through_own_code_is_refused() -> None:
    """A library may hide such code behind a function of torch, so the graph is looked at, too."""
    module, x = Using(lambda p, x: x + p), torch.randn(4, 3, 5)
    capture = capture_of(module, [2, 2])
    value = Doubled.apply(module.p)
    capture.put_label(value, Public(), "value")
    capture.take_in(x, Records(0))
    with pytest.raises(Coupled, match="passes through DoubledBackward, a custom autograd function"), capture:
        x + value


@pytest.mark.parametrize("use", [lambda t: t, lambda t: t.tanh()])
def test_a_public_tensor_that_is_trained_by_somebody_else_is_refused(use: Callable[[Tensor], Tensor]) -> None:
    module = Using(lambda p, x: x * p + use(module.elsewhere))
    module.register_buffer("elsewhere", torch.ones(5, requires_grad=True))
    with pytest.raises(Coupled, match="a tensor that requires a gradient is no trained parameter"):
        run(module, torch.randn(4, 3, 5), capture_of(module, [2, 2]))


def test_a_concatenation_of_other_sizes_fails_as_in_torch() -> None:
    module = Using(lambda p, x: torch.cat([p.view(1, 1, 5), x], dim=1))
    with pytest.raises((Coupled, RuntimeError)):
        run(module, torch.randn(4, 3, 5), capture_of(module, [2, 2]))


def test_rows_of_an_earlier_use_are_added() -> None:
    """The first backward pass came before the second use, so it could not know of it."""
    module, x, sizes = nn.Linear(5, 3), torch.randn(6, 5), [2, 4]
    capture = capture_of(module, sizes, ghost=True)
    send_back(loss_of(run(module, x, capture)), capture)
    second = run(module, x, capture)
    send_back(loss_of(second), capture)
    expected = torch.stack([4 * r.flatten(1).square().sum(1) for r in brute_force(module, x, sizes).values()])
    torch.testing.assert_close(
        capture.squared_norms(module.parameters()), expected.sum(0), rtol=1e-5, atol=0.0
    )


def test_what_is_only_converted_to_the_type_of_records_is_public() -> None:
    module, sizes = Using(lambda p, x: x * p.tanh().type_as(x)), [1, 3]
    x = torch.randn(4, 3, 5)
    capture = capture_of(module, sizes)
    send_back(loss_of(run(module, x, capture)), capture)
    assert relative_error(rows_of(module, capture), brute_force(module, x, sizes)) < 1e-5


def test_gradients_of_public_values_from_anything_but_the_criterion_are_refused() -> None:
    for use in (lambda p, x: x * p, lambda p, x: x * p.tanh()):
        for ghost in (False, True):
            module = Using(use)
            capture = capture_of(module, [2, 2], ghost=ghost)
            out = run(module, torch.randn(4, 3, 5), capture)
            with pytest.raises(RuntimeError, match="reached parameter 'p' from a tensor other than the loss"):
                out.sum().backward()


def test_a_parameter_that_is_used_once_more_after_its_gradient() -> None:
    """A second forward pass after the backward pass of the first adds to rows that are there."""
    module, x, sizes = nn.Linear(5, 3), torch.randn(6, 5), [2, 4]
    capture = capture_of(module, sizes, ghost=True)
    for _ in range(2):
        send_back(loss_of(run(module, x, capture)), capture)
    expected = {name: 2 * rows for name, rows in brute_force(module, x, sizes).items()}
    squares = torch.stack([rows.flatten(1).square().sum(1) for rows in expected.values()]).sum(0)
    torch.testing.assert_close(capture.squared_norms(module.parameters()), squares, rtol=1e-5, atol=0.0)
    factors = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = {name: capture.weighted_sum(factors, p) for name, p in trained(module)}
    assert relative_error(found, {n: torch.tensordot(factors, r, 1) for n, r in expected.items()}) < 1e-5  # type: ignore[arg-type]


def test_what_ghost_computes_again_must_not_have_changed() -> None:
    module, x = Twice(), torch.randn(4, 5)
    capture = capture_of(module, [2, 2], ghost=True)
    send_back(loss_of(run(module, x, capture)), capture)
    x += 1
    with pytest.raises(
        RuntimeError, match=r"input of a layer, of shape \(4, 5\), was modified in place between"
    ):
        capture.squared_norms(module.parameters())


def test_rows_of_a_large_table_are_computed_for_a_few_buckets_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpmi.privacy.gradients.recomputed.AT_A_TIME", 80)  # two rows of the table
    seen = []
    rows = RowsOfLayer.__call__
    monkeypatch.setattr(
        RowsOfLayer, "__call__", lambda self, some: seen.append((some.start, some.stop)) or rows(self, some)
    )
    module, x, sizes = Tied(), torch.randint(9, (9, 5)), [1, 2, 3, 2, 1]
    capture = capture_of(module, sizes, ghost=True)
    send_back(loss_of(run(module, x, capture)), capture)
    expected = brute_force(module, x, sizes)["embedding.weight"]
    squares = capture.squared_norms(module.parameters())
    torch.testing.assert_close(squares, expected.flatten(1).square().sum(1), rtol=1e-5, atol=0.0)
    assert set(seen) == {(0, 2), (2, 4), (4, 5)}
    ones = torch.ones(5, dtype=torch.float64)
    found = capture.weighted_sum(ones, module.embedding.weight)
    torch.testing.assert_close(found, expected.sum(0).float(), rtol=1e-4, atol=1e-5)


def test_gradients_from_anything_but_the_criterion_are_refused() -> None:
    module, x = nn.Linear(5, 3), torch.randn(4, 5)
    capture = capture_of(module, [2, 2])
    out = run(module, x, capture)
    with pytest.raises(RuntimeError, match=r"reached parameter '(bias|weight)' from a tensor other than"):
        out.sum().backward()
    assert capture.is_empty


def test_what_depends_on_parameters_alone_is_no_output() -> None:
    module, x = nn.Linear(5, 3), torch.randn(4, 5)
    capture = capture_of(module, [2, 2])
    out = run(lambda _: module.weight.square(), x, capture)
    with pytest.raises(Coupled, match="computed from parameters only"):
        capture.finish([out])


def test_an_autograd_function_of_the_users_is_refused() -> None:
    class Mixing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            return g.mean(0).expand_as(g)

    module, x = nn.Linear(5, 3), torch.randn(4, 5)
    capture = capture_of(module, [2, 2])
    with pytest.raises(Coupled, match=r"origin of a tensor|Mixing is a custom autograd function"):
        capture.finish([run(lambda x: Mixing.apply(module(x)).tanh(), x, capture)])


def test_gradient_checkpointing_is_refused() -> None:
    module, x = nn.Linear(5, 3), torch.randn(4, 5)
    capture = capture_of(module, [2, 2])
    # torch 2.8 first reads a saved tensor without content, which is refused, too.
    reason = "'weight' and 'bias' is recomputed in the backward pass|reads uninitialised memory"
    with pytest.raises(Coupled, match=reason):
        run(lambda x: checkpoint(module, x, use_reentrant=False), x, capture)


def test_the_input_gradient_is_unchanged() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x = torch.randn(4, 2, 5, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(loss_of(module(x)), x)
    capture = capture_of(module, [1, 3])
    send_back(loss_of(run(module, x, capture)), capture)
    assert torch.equal(x.grad, expected)  # type: ignore[arg-type]


def test_modifying_a_captured_input_is_refused() -> None:
    module = nn.ModuleDict({"a": nn.Linear(5, 5), "b": nn.Linear(5, 3)})
    capture, hidden = capture_of(module, [2, 2]), []

    def forward(x: Tensor) -> Tensor:
        hidden.append(module["a"](x) * 1)
        return module["b"](hidden[0])

    out = run(forward, torch.randn(4, 5), capture)
    hidden[0] += 1
    with pytest.raises(RuntimeError, match=r"'b\.weight'.*modified in place"):
        send_back(out.sum(), capture)


def test_modifying_an_input_that_ghost_needs_is_refused() -> None:
    module, x = nn.Linear(50, 40), torch.randn(4, 50)
    capture = capture_of(module, [1] * 4, ghost=True)
    send_back(run(module, x, capture).sum(), capture)
    x += 1
    with pytest.raises(RuntimeError, match="modified in place"):
        capture.weighted_sum(torch.ones(4), module.weight)


def test_an_input_is_freed_when_its_gradient_has_been_used() -> None:
    module = nn.Linear(5, 3)
    capture = capture_of(module, [2, 2])
    x = torch.randn(4, 5)
    gone = weakref.ref(x)
    out = run(module, x, capture)
    del x
    assert gone() is not None
    send_back(out.sum(), capture)
    assert gone() is None


class Summed(nn.Module):
    """A layer whose output does not hold the records."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale).sum()


class Bag(nn.Module):
    """The tokens of all records in one row, from offsets on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.EmbeddingBag(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(), torch.tensor([0, 3, 6, 9]))


@pytest.mark.parametrize(
    ("make", "x", "match"),
    [
        (Summed, torch.zeros(4, 5), "sum: the dimensions are None, so it runs over all records"),
        (
            lambda: nn.Embedding(9, 3, max_norm=1.0),
            torch.zeros(4, dtype=torch.int64),
            "max_norm rescales the table",
        ),
        (
            lambda: nn.Embedding(9, 3, scale_grad_by_freq=True),
            torch.zeros(4, dtype=torch.int64),
            "scale_grad_by_freq scales gradients",
        ),
        (
            lambda: nn.EmbeddingBag(9, 3, mode="max"),
            torch.zeros(4, 3, dtype=torch.int64),
            "'weight': mode=\"max\"",
        ),
        (Bag, torch.zeros(4, 3, dtype=torch.int64), "embedding_bag.*offsets"),
    ],
)
def test_what_cannot_be_split_by_bucket_is_refused(
    make: Callable[[], nn.Module], x: Tensor, match: str
) -> None:
    module = make()
    with pytest.raises(Coupled, match=match):
        run(module, x, capture_of(module, [2, 2]))
    assert "forward" not in vars(module)


def test_ghost_refuses_a_second_backward_pass() -> None:
    module = nn.Linear(40, 30)
    capture = capture_of(module, [2, 2], ghost=True)
    out = run(module, torch.randn(4, 40), capture)
    send_back(out.sum(), capture, keep=True)
    with pytest.raises(
        RuntimeError, match=r"two backward passes reached parameter 'weight'.*call backward\(\) once"
    ):
        send_back(out.sum(), capture)


def test_ghost_starts_again_when_cleared() -> None:
    module, x = nn.Linear(5, 3), torch.randn(4, 5)
    capture = capture_of(module, [2, 2], ghost=True)
    assert capture.squared_norms(module.parameters()).tolist() == [0.0, 0.0]
    for _ in range(2):
        capture.clear()
        out = run(module, x, capture)
        capture.clear()  # as by a zero_grad() between the forward and the backward pass
        send_back(out.sum(), capture)
    assert capture.squared_norms(module.parameters())[0] == pytest.approx(
        float(x[:2].sum(0).square().sum() * 3 + 2**2 * 3), rel=1e-5
    )


def test_a_forward_method_of_an_instance_is_put_back() -> None:
    module = nn.PReLU(5)
    module.forward = own = lambda x: F.prelu(x, 2 * module.weight)  # type: ignore[method-assign]
    x = torch.randn(4, 5)
    capture = capture_of(module, [1, 3])
    out = run(module, x, capture)
    assert module.forward is own
    assert torch.equal(out, own(x))


@pytest.mark.parametrize("ghost", [False, True])
def test_bfloat16_rows_are_float32(ghost: bool) -> None:
    module = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 64), nn.Linear(64, 3)
    )
    x, sizes = torch.randn(12, 2, 5, 5), [1, 1, 5, 5]
    expected = brute_force(module, x, sizes)
    capture = capture_of(module, sizes, ghost=ghost)
    with torch.autocast("cpu", torch.bfloat16):
        send_back(loss_of(run(module, x, capture).float()), capture)
    if ghost:
        squares = torch.stack([rows.flatten(1).square().sum(1) for rows in expected.values()]).sum(0)
        assert float((capture.squared_norms(module.parameters()) / squares).sqrt().sub(1).abs().max()) < 2e-2
        ones = torch.ones(4, dtype=torch.float64)
        found = {name: capture.weighted_sum(ones, p) for name, p in trained(module)}
        expected = {name: rows.sum(0) for name, rows in expected.items()}
    else:
        found = rows_of(module, capture)
    assert {rows.dtype for rows in found.values()} == {torch.float32}
    assert relative_error(found, expected) < 2e-2


def test_float64_stays_float64() -> None:
    module, x = (
        nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4)).double(),
        torch.randn(6, 5, dtype=torch.float64),
    )
    capture = capture_of(module, [3, 3])
    send_back(loss_of(run(module, x, capture)), capture)
    assert {rows.dtype for rows in capture.rows.values()} == {torch.float64}
    assert relative_error(rows_of(module, capture), brute_force(module, x, [3, 3])) < 1e-13


@pytest.mark.parametrize("size", [2, 16, 128])
@pytest.mark.parametrize("rest", [0.0, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("alike", [False, True])
def test_no_clipped_gradient_is_too_long_when_records_nearly_cancel(
    size: int, rest: float, alike: bool
) -> None:
    """The second half of each bucket undoes the first, but for a fraction ``rest``."""
    k, wide = 3, 300
    x = torch.full((k, size // 2, wide), 0.1) if alike else torch.randn(k, size // 2, wide)
    g = torch.full((k, size // 2, wide), 0.3) if alike else torch.randn(k, size // 2, wide)
    undone = -g * (1 + rest * torch.randn_like(g))
    x, g = torch.cat([x, x], 1).view(-1, wide), torch.cat([g, undone], 1).view(-1, wide)
    gradients = Factors(Linear(torch.empty(wide, wide)), x, g, Segments([size] * k))
    norms = gradients.squared_norms.sqrt()
    assert bool((norms > 0).all())
    for i in range(k):
        factors = torch.zeros(k, dtype=torch.float64)
        factors[i] = 1.0 / norms[i]
        assert float(gradients.weighted_sum(factors).double().norm()) <= 1 + 1e-5
    exact = (
        torch.bmm(g.view(k, size, wide).mT.double(), x.view(k, size, wide).double()).flatten(1).norm(dim=1)
    )
    assert bool((norms >= exact * (1 - 1e-6)).all())


@pytest.mark.parametrize("use", [lambda w, x: F.linear(x, w), lambda w, x: F.linear(x, w * 2)])
def test_a_weight_that_is_trained_later_is_no_known_one(use: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The pass that was followed had no tap for it, and without one its gradient would be that of all buckets."""
    module, sizes = nn.Linear(5, 3, bias=False), [2, 2]
    named = list(module.named_parameters())

    def traced(sizes: list[int], program: Program | None = None) -> Capture:
        x = torch.randn(sum(sizes), 5, requires_grad=True)
        capture = Capture(named, Segments(sizes), public=PublicTensors(module))
        capture.take_in(x, Records(0))
        capture.begin_pass([x], program)
        with capture:
            out = use(module.weight, x)
        capture.finish([out])
        send_back(loss_of(out), capture)
        return capture

    module.weight.requires_grad_(requires_grad=False)
    program = Program.of(*(traced(n).trace for n in ([1, 1], [1, 2])))
    for _ in range(2):
        assert not traced(sizes, program).rows
    module.weight.requires_grad_()
    assert traced(sizes, program).rows[module.weight].shape == (2, 3, 5)
    assert module.weight.grad is None
