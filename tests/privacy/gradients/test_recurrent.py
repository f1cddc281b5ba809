"""Recurrent layers on several buckets: outputs, states and rows equal those of PyTorch's own layers."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.gradients.recurrent import can_be_written_out, written_out
from dpmi.privacy.isolation.labels import Coupled

from .test_layers import brute_force, capture_of, loss_of, relative_error, run, send_back, trained

SIZES = [1, 1, 2, 5]
RECORDS, STEPS, FEATURES, HIDDEN = sum(SIZES), 4, 3, 5

LAYERS: dict[str, Callable[..., nn.RNNBase]] = {
    "lstm": lambda **o: nn.LSTM(FEATURES, HIDDEN, **o),
    "gru": lambda **o: nn.GRU(FEATURES, HIDDEN, **o),
    "rnn": lambda **o: nn.RNN(FEATURES, HIDDEN, **o),
    "rnn of relus": lambda **o: nn.RNN(FEATURES, HIDDEN, nonlinearity="relu", **o),
    "lstm that projects": lambda **o: nn.LSTM(FEATURES, HIDDEN, proj_size=2, **o),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
}
everywhere = [
    pytest.mark.parametrize("kind", LAYERS),
    pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS),
    pytest.mark.parametrize("batch_first", [True, False]),
]


def each(test: Any) -> Any:
    for mark in everywhere:
        test = mark(test)
    return test


class Model(nn.Module):
    """Outputs and last states of a layer, side by side for each record; the states begin at those of the records.

    Args:
        layer: the layer.
        start: makes the states at the start from the records; None for zeros.
    """

    def __init__(self, layer: nn.RNNBase, start: Callable[[nn.RNNBase, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        first = self.layer.batch_first
        states = () if self.start is None else (self.start(self.layer, x),)
        out, last = self.layer(x if first else x.transpose(0, 1), *states)
        lasts = last if isinstance(last, tuple) else (last,)
        parts = [out if first else out.transpose(0, 1), *(s.transpose(0, 1) for s in lasts)]
        return torch.cat([part.flatten(1) for part in parts], 1)


def sizes_of_states(layer: nn.RNNBase) -> list[tuple[int, int]]:
    rows = layer.num_layers * (1 + layer.bidirectional)
    hidden = (rows, layer.proj_size or layer.hidden_size)
    return [hidden, (rows, layer.hidden_size)] if isinstance(layer, nn.LSTM) else [hidden]


def from_records(layer: nn.RNNBase, x: Tensor) -> Any:
    states = [
        torch.cat([x[:, :1, :1].transpose(0, 1) * (i + 1)] * rows).expand(rows, len(x), size)
        for i, (rows, size) in enumerate(sizes_of_states(layer))
    ]
    return tuple(states) if isinstance(layer, nn.LSTM) else states[0]


def of_zeros(layer: nn.RNNBase, x: Tensor) -> Any:
    states = [torch.zeros(rows, len(x), size, dtype=x.dtype) for rows, size in sizes_of_states(layer)]
    return tuple(states) if isinstance(layer, nn.LSTM) else states[0]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def untapped(out: Tensor, *_: Any) -> Tensor:
    return out


@each
@pytest.mark.parametrize("start", [None, from_records])
def test_it_computes_what_the_layer_computes(
    kind: str, options: dict[str, Any], batch_first: bool, start: Any
) -> None:
    layer = LAYERS[kind](batch_first=batch_first, **options).double()
    x = torch.randn(RECORDS, STEPS, FEATURES, dtype=torch.float64)
    states = () if start is None else start(layer, x)
    x = x if batch_first else x.transpose(0, 1)
    expected, last = layer(x, *(() if start is None else (states,)))
    states = (states,) if isinstance(states, Tensor) else states
    found, own_last = written_out(layer, x, states, untapped)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(own_last, last, rtol=0, atol=1e-13)


@each
@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize("start", [None, from_records, of_zeros])
def test_rows_equal_a_backward_pass_per_bucket(
    kind: str, options: dict[str, Any], batch_first: bool, ghost: bool, start: Any
) -> None:
    module = Model(LAYERS[kind](batch_first=batch_first, **options), start)
    x = torch.randn(RECORDS, STEPS, FEATURES)
    expected = brute_force(module, x, SIZES)
    capture = capture_of(module, SIZES, ghost=ghost)
    send_back(loss_of(run(module, x, capture)), capture)
    factors = torch.linspace(0.5, 2.0, len(SIZES), dtype=torch.float64)
    sums = {name: capture.weighted_sum(factors, p) for name, p in trained(module)}
    assert relative_error(sums, {n: torch.tensordot(factors, r, 1) for n, r in expected.items()}) < 1e-5
    squares = torch.stack([r.flatten(1).square().sum(1) for r in expected.values()]).sum(0)
    assert float(((capture.squared_norms(module.parameters()) - squares) / squares).abs().max()) < 1e-5
    if not ghost:
        assert relative_error({n: capture.rows[p] for n, p in trained(module)}, expected) < 1e-5
    assert all(p.grad is None for p in module.parameters())


def test_the_input_gradient_is_unchanged() -> None:
    module = Model(nn.GRU(FEATURES, HIDDEN, batch_first=True, num_layers=2))
    x = torch.randn(RECORDS, STEPS, FEATURES, requires_grad=True)
    (expected,) = torch.autograd.grad(loss_of(module(x)), x)
    capture = capture_of(module, SIZES)
    send_back(loss_of(run(module, x, capture)), capture)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
def test_only_trained_weights_get_rows(frozen: str) -> None:
    module = Model(nn.LSTM(FEATURES, HIDDEN, batch_first=True))
    module.layer.get_parameter(frozen).requires_grad_(requires_grad=False)
    x = torch.randn(RECORDS, STEPS, FEATURES)
    capture = capture_of(module, SIZES)
    send_back(loss_of(run(module, x, capture)), capture)
    found = {name: capture.rows[p] for name, p in trained(module)}
    assert f"layer.{frozen}" not in found
    assert relative_error(found, brute_force(module, x, SIZES)) < 1e-5
    assert len(capture.rows) == 3


def test_weights_that_are_computed_from_parameters() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.LSTM(FEATURES, HIDDEN, batch_first=True), "weight_hh_l0")
    module, x = Model(layer), torch.randn(RECORDS, STEPS, FEATURES)
    module(x)  # the attribute that the norm computes is no leaf, and only leaves can be copied
    plain = Model(copy_with_norm(layer))
    capture = capture_of(module, SIZES)
    send_back(loss_of(run(module, x, capture)), capture)
    found = {name: capture.rows[p] for name, p in trained(module)}
    assert "layer.weight_hh_l0_g" in found
    assert relative_error(found, brute_force_in_place(plain, x)) < 1e-5


def copy_with_norm(layer: nn.Module) -> Any:
    with pytest.warns(FutureWarning, match="weight_norm"):
        other: Any = nn.utils.weight_norm(nn.LSTM(FEATURES, HIDDEN, batch_first=True), "weight_hh_l0")
    other.load_state_dict(layer.state_dict())
    return other.double()


def brute_force_in_place(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {}
    for part in x.double().split(SIZES):
        module.zero_grad()
        loss_of(module(part)).backward()
        for name, p in module.named_parameters():
            assert p.grad is not None
            rows.setdefault(name, []).append(p.grad.clone())
    return {name: torch.stack(row) for name, row in rows.items()}


def test_dropout_is_between_the_layers() -> None:
    layer = nn.LSTM(FEATURES, HIDDEN, num_layers=2, dropout=1.0, batch_first=True)
    x = torch.randn(RECORDS, STEPS, FEATURES)
    for training in (True, False):
        layer.train(training)
        found, _ = written_out(layer, x, (), untapped)
        torch.testing.assert_close(found, layer(x)[0])


def test_states_can_be_named_and_come_first() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(FEATURES, HIDDEN, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(hx=from_records(self.layer, x), input=x)[0]

    module, x = Named(), torch.randn(RECORDS, STEPS, FEATURES)
    capture = capture_of(module, SIZES)
    send_back(loss_of(run(module, x, capture)), capture)
    found = {name: capture.rows[p] for name, p in trained(module)}
    assert relative_error(found, brute_force(module, x, SIZES)) < 1e-5


def test_a_state_that_is_changed_later_is_what_it_was() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(FEATURES, HIDDEN, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            state = from_records(self.layer, x).clone()
            out = self.layer(x, state)[0]
            state.mul_(3)
            return out * state.transpose(0, 1)

    module, x = Changing(), torch.randn(RECORDS, STEPS, FEATURES)

    def separately(x: Tensor) -> Tensor:
        state = from_records(module.layer, x)
        return module.layer(x, state)[0] * (3 * state).transpose(0, 1)

    expected = [
        torch.autograd.grad(loss_of(separately(part)), list(module.parameters())) for part in x.split(SIZES)
    ]
    capture = capture_of(module, SIZES)
    send_back(loss_of(run(module, x, capture)), capture)
    for p, *rows in zip(module.parameters(), *expected, strict=True):
        torch.testing.assert_close(capture.rows[p], torch.stack(rows))


@pytest.mark.parametrize(
    ("state", "refused", "why"),
    [
        (lambda layer, x: of_zeros(layer, x)[:, :1], RuntimeError, "Expected hidden size"),
        (lambda layer, x: from_records(layer, x)[:, :, :2], RuntimeError, "Expected hidden size"),
        (
            lambda layer, x: torch.arange(1.0, len(x) * HIDDEN + 1).view(1, len(x), HIDDEN),
            Coupled,
            "does not hold the records in dimension 1",
        ),
        (lambda layer, x: layer.bias_hh_l0[:HIDDEN].expand(1, len(x), HIDDEN), Coupled, "from parameters"),
    ],
)
def test_states_that_do_not_fit(state: Any, refused: type[Exception], why: str) -> None:
    """Among them rows that differ but belong to no record, and a start that is trained."""
    module, x = (
        Model(nn.GRU(FEATURES, HIDDEN, batch_first=True), state),
        torch.randn(RECORDS, STEPS, FEATURES),
    )
    with pytest.raises(refused, match=why):
        run(module, x, capture_of(module, SIZES))


def test_time_first_needs_records_in_the_second_dimension() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(FEATURES, HIDDEN)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    module, x = Wrong(), torch.randn(RECORDS, STEPS, FEATURES)
    with pytest.raises(Coupled, match="is used by LSTM without records"):
        run(module, x, capture_of(module, SIZES))


def test_a_layer_that_computes_something_else_runs_bucket_by_bucket() -> None:
    class Scaled(nn.LSTM):
        def forward(self, x: Tensor) -> Any:
            return super().forward(2 * x)

    layer = Scaled(FEATURES, HIDDEN, batch_first=True)
    assert not can_be_written_out(layer)
    module, x = Model(layer), torch.randn(RECORDS, STEPS, FEATURES)
    capture = capture_of(module, SIZES)
    send_back(loss_of(run(module, x, capture)), capture)
    found = {name: capture.rows[p] for name, p in trained(module)}
    assert relative_error(found, brute_force(module, x, SIZES)) < 1e-5


def test_a_pass_is_freed_with_its_output() -> None:
    """Without a collection of garbage, which could come too late."""

    class Marker:
        pass

    module, x = Model(nn.LSTM(FEATURES, HIDDEN, batch_first=True)), torch.randn(RECORDS, STEPS, FEATURES)
    capture = capture_of(module, SIZES)
    gc.disable()
    try:
        out = run(module, x, capture)
        markers, nodes = [], [out.grad_fn]
        while nodes:
            node: Any = nodes.pop()
            if node is not None and "marker" not in node.metadata:
                marker = node.metadata["marker"] = Marker()
                markers.append(weakref.ref(marker))
                nodes.extend(following for following, _ in node.next_functions)
        del out, node, marker
        assert [marker() for marker in markers] == [None] * len(markers)
    finally:
        gc.enable()


def test_the_module_is_as_before() -> None:
    module, x = Model(nn.LSTM(FEATURES, HIDDEN, batch_first=True)), torch.randn(RECORDS, STEPS, FEATURES)
    before = copy.deepcopy(module)(x)
    run(module, x, capture_of(module, SIZES))
    assert "forward" not in vars(module.layer)
    torch.testing.assert_close(module(x), before)
