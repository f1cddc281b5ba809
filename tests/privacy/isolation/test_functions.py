"""Calls that must be accepted, with their labels, and calls that must be refused; no rule without a property test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dpmi.privacy.isolation.functions import (
    FACTORIES_CONSTANT,
    FACTORIES_EMPTY,
    FACTORIES_SAME,
    FILLS,
    METADATA,
    RULES,
)
from dpmi.privacy.isolation.labels import CONSTANT, PUBLIC, SAME, Coupled, Label, Public, Records
from dpmi.privacy.isolation.rules import Call

from . import (
    test_along,
    test_elementwise,
    test_indexing,
    test_layer_functions,
    test_losses,
    test_products,
    test_shapes,
)
from .harness import tensors_of

MODULES = (
    test_along,
    test_elementwise,
    test_indexing,
    test_layer_functions,
    test_losses,
    test_products,
    test_shapes,
)
N = 5


class Follow(TorchFunctionMode):
    """Ask the rule of every call inside, and label its outputs. Anything unknown is public."""

    def __init__(self, **labelled: tuple[Tensor, Label]) -> None:
        super().__init__()
        self.labels = {id(tensor): (tensor, label) for tensor, label in labelled.values()}

    def label(self, tensor: Tensor) -> Label:
        return self.labels.get(id(tensor), (tensor, PUBLIC))[1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in METADATA:
            return func(*args, **kwargs)
        tensors = tensors_of(args) + tensors_of(list(kwargs.values()))
        labels = [self.label(tensor) for tensor in tensors]
        held = any(isinstance(label, Records) for label in labels)
        if func in FACTORIES_CONSTANT:
            label: Any = CONSTANT
        elif func in RULES and tensors:
            label = RULES[func](Call(func, args, kwargs, tensors, labels, N))
        elif held:
            raise Coupled(f"{func} has no rule")
        else:
            label = PUBLIC
        out = func(*args, **kwargs)
        if not isinstance(label, (Records, Public)):
            label = label(out)
        for tensor in tensors_of(args[0] if out is None else out):
            self.labels[id(tensor)] = (tensor, label)
        return out


def followed(function: Callable[[Tensor], Tensor], x: Tensor, label: Label) -> Label:
    with Follow(x=(x, label)) as mode:
        out = function(x)
    return mode.label(out)


def test_every_rule_has_a_property_test() -> None:
    tested = {func for module in MODULES for func in module.TABLE}
    assert {func for func in RULES if func not in tested} == set()


def _setitem(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = x[:, 1]
    return y


def _add_in_place(x: Tensor) -> Tensor:
    y = x * 2
    y += x
    return y


W = torch.rand(6, 6)
ACCEPTED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], Label, Label]] = {
    # name: function, shape of its operand, label of its operand, label of its output
    "plain": (lambda x: x * W[0], (N, 6), Records(0), Records(0)),
    "operators": (lambda x: ((2 - x) / (1 + x**2) > 0.1) & ~(x < 0), (N, 6), Records(0), Records(0)),
    "zeros of N": (lambda x: torch.zeros(N, 6) + x, (N, 6), Records(0), Records(0)),
    "noise of N": (lambda x: x + torch.randn(N, 6), (N, 6), Records(0), Records(0)),
    "stochastic depth": (lambda x: x * (torch.rand(N, 1) > 0.3), (N, 6), Records(0), Records(0)),
    "dropout": (lambda x: F.dropout(x, 0.5), (N, 6), Records(0), Records(0)),
    "in place": (_add_in_place, (N, 6), Records(0), Records(0)),
    "relu in place": (lambda x: F.relu(x * 2, inplace=True), (N, 6), Records(0), Records(0)),
    "setitem": (_setitem, (N, 6), Records(0), Records(0)),
    "flatten": (lambda x: x.flatten(1), (N, 2, 3), Records(0), Records(0)),
    "heads": (lambda x: x.view(N, 4, 2, 3).transpose(1, 2), (N, 4, 6), Records(0), Records(0)),
    "tokens": (lambda x: x.reshape(-1, 6), (N, 4, 6), Records(0), Records(0, 1, 4)),
    "tokens and back": (lambda x: x.view(N, 4, 6), (N * 4, 6), Records(0, 1, 4), Records(0)),
    "time-major heads": (
        lambda x: x.view(4, N * 2, 3).transpose(0, 1),
        (4, N, 6),
        Records(1),
        Records(0, 1, 2),
    ),
    "time-major tokens": (lambda x: x.reshape(-1, 6), (4, N, 6), Records(1), Records(0, 4)),
    "two views": (lambda x: torch.cat([x, -x]), (N, 6), Records(0), Records(0, 2)),
    "two views and back": (lambda x: x.chunk(2)[0], (2 * N, 6), Records(0, 2), Records(0)),
    "class token": (
        lambda x: torch.cat([W[:1, None].expand(N, -1, -1), x], 1),
        (N, 4, 6),
        Records(0),
        Records(0),
    ),
    "linear": (lambda x: F.linear(x, W), (N, 6), Records(0), Records(0)),
    "matmul": (lambda x: x @ W.T, (N, 6), Records(0), Records(0)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (N, 2, 4, 3), Records(0), Records(0)),
    "einsum": (lambda x: torch.einsum("btd,de->ebt", x, W), (N, 4, 6), Records(0), Records(1)),
    "distance to centres": (lambda x: torch.cdist(x, W), (N, 6), Records(0), Records(0)),
    "convolution": (lambda x: F.conv2d(x, W.view(1, 4, 3, 3)), (N, 4, 6, 6), Records(0), Records(0)),
    "pooling": (lambda x: F.max_pool2d(x, 2), (N, 4, 6, 6), Records(0), Records(0)),
    "group norm": (lambda x: F.group_norm(x, 2), (N, 4, 6, 6), Records(0), Records(0)),
    "batch norm, evaluated": (lambda x: F.batch_norm(x, W[0], W[1]), (N, 6, 2), Records(0), Records(0)),
    "softmax": (lambda x: x.softmax(-1), (N, 6), Records(0), Records(0)),
    "mean": (lambda x: x.mean((2, 3)), (N, 4, 6, 6), Records(0), Records(0)),
    "time-major mean": (lambda x: x.mean(0), (4, N, 6), Records(1), Records(0)),
    "table": (lambda x: W[(x * 0).long()], (N, 3), Records(0), Records(0)),
    "losses": (
        lambda x: F.cross_entropy(x, (x[:, 0] * 0).long(), reduction="none"),
        (N, 6),
        Records(0),
        Records(0),
    ),
    "repeated": (lambda x: x.repeat(2, 1), (N, 6), Records(0), Records(0, 2)),
    "interleaved": (lambda x: x.repeat_interleave(3, 0), (N, 6), Records(0), Records(0, 1, 3)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_with_this_label(name: str) -> None:
    function, shape, label, expected = ACCEPTED[name]
    assert followed(function, torch.rand(shape), label) == expected


def _assign(x: Tensor) -> Tensor:
    y = x.clone()
    y[1:] = x[:-1]
    return y


def _write_into_public(x: Tensor) -> Tensor:
    y = torch.zeros(N, 6)
    y.add_(x)
    return y


def _set_in_public(x: Tensor) -> Tensor:
    y = torch.zeros(N, 6)
    y[:, 0] = x[:, 0]
    return y


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], Label]] = {
    "home-made batch norm": (lambda x: (x - x.mean(0)) / x.std(0), (N, 6), Records(0)),
    "mixstyle": (lambda x: x[torch.randperm(N)], (N, 6), Records(0)),
    "roll": (lambda x: x.roll(1, 0), (N, 6), Records(0)),
    "roll over all": (lambda x: x.roll(1), (N, 6), Records(0)),
    "flip": (lambda x: x.flip(0), (N, 6), Records(0)),
    "softmax of N": (lambda x: F.softmax(x, 0), (N, 6), Records(0)),
    "gram matrix": (lambda x: x @ x.T, (N, 6), Records(0)),
    "covariance": (lambda x: x.T @ x, (N, 6), Records(0)),
    "einsum": (lambda x: torch.einsum("ni,mi->nm", x, x), (N, 6), Records(0)),
    "topk": (lambda x: x.topk(2, 0).values, (N, 6), Records(0)),
    "sort": (lambda x: x.sort(0)[0], (N, 6), Records(0)),
    "cumsum": (lambda x: x.cumsum(0), (N, 6), Records(0)),
    "norm": (lambda x: x / x.norm(), (N, 6), Records(0)),
    "sum": (lambda x: x / x.sum(), (N, 6), Records(0)),
    "item": (lambda x: x * x[:, 0].item(), (1, 6), Records(0)),
    "tolist": (lambda x: torch.tensor(x.tolist()), (N, 6), Records(0)),
    "numpy": (lambda x: torch.from_numpy(x.numpy()), (N, 6), Records(0)),
    "transposed layer norm": (lambda x: F.layer_norm(x.T, (N,)), (N, 6), Records(0)),
    "reshape": (lambda x: x.reshape(-1).view(2, -1), (N, 6), Records(0)),
    "reshape of the transposed": (lambda x: x.T.reshape(N, 6), (N, 6), Records(0)),
    "shifted": (lambda x: torch.cat([x[1:], x[:1]]), (N, 6), Records(0)),
    "assigned": (_assign, (N, 6), Records(0)),
    "written into public": (_write_into_public, (N, 6), Records(0)),
    "set in public": (_set_in_public, (N, 6), Records(0)),
    "arange": (lambda x: x * torch.arange(N)[:, None], (N, 6), Records(0)),
    "order": (lambda x: x[x[:, 0].argsort()], (N, 6), Records(0)),
    "mask": (lambda x: x[x[:, 0] > 0.5], (N, 6), Records(0)),
    "mask of a table": (lambda x: torch.rand(N)[x[:, 0] > 0.5], (N, 6), Records(0)),
    "unique": (lambda x: x[:, 0].round().unique(), (N, 6), Records(0)),
    "outer": (lambda x: x[:, None] + x[None], (N, 6), Records(0)),
    "scatter by record": (
        lambda x: torch.zeros(3, 6).index_add(0, (x[:, 0] > 0.5).long(), x),
        (N, 6),
        Records(0),
    ),
    "distances": (lambda x: torch.cdist(x, x), (N, 6), Records(0)),
    "convolution over N": (lambda x: F.conv1d(x.T[None], torch.ones(6, 6, 3), padding=1), (N, 6), Records(0)),
    "pooling over N": (lambda x: F.avg_pool1d(x.T[None], 3, 1, 1), (N, 6), Records(0)),
    "as_strided": (lambda x: x.as_strided((N, 6), (0, 1)), (N, 6), Records(0)),
    "batch norm": (lambda x: F.batch_norm(x, None, None, training=True), (N, 6), Records(0)),
    "weights by batch": (lambda x: F.linear(torch.rand(2, 6), x), (N, 6), Records(0)),
    "records as a sequence": (
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
        (N, 6),
        Records(0),
    ),
    "first of all": (lambda x: x[0].expand(N, 6), (N, 6), Records(0)),
    "where any": (lambda x: torch.where((x > 3).any(), x * 2, x), (N, 6), Records(0)),
    "out": (lambda x: torch.add(x, 1, out=torch.zeros(N, 6)), (N, 6), Records(0)),
    "lower triangle": (lambda x: torch.tril(torch.ones(N, N)) @ x, (N, 6), Records(0)),
    "max_norm": (lambda x: F.embedding(x.long(), torch.ones(3, 2), max_norm=1.0), (N, 6), Records(0)),
    "classes of the batch": (lambda x: F.one_hot(x.long()), (N, 6), Records(0)),
    "mean loss": (lambda x: F.mse_loss(x, x), (N, 6), Records(0)),
    "positions of tokens": (lambda x: x + torch.arange(N * 4.0)[:, None], (N * 4, 6), Records(0, 1, 4)),
    "one of two": (lambda x: torch.zeros(1, 6) + x[:1], (N, 6), Records(0)),
    "squeezed": (lambda x: x.squeeze(0), (N, 6), Records(0)),
    "running statistics": (lambda x: F.instance_norm(x, W[0], W[1]), (N, 6, 4), Records(0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, shape, label = REFUSED[name]
    with pytest.raises(Coupled):
        followed(function, torch.rand(shape), label)


FOLLOWS = Public(frozenset({0}), frozenset({0}))
PUBLIC_CALLS: list[tuple[Callable[[Tensor], Tensor], Label, Label | None]] = [
    (lambda t: t.sum(0), FOLLOWS, None),
    (lambda t: t.mean(0), FOLLOWS, None),
    (lambda t: t.mean(0), Public(frozenset({0}), frozenset({0}), same=True), Public(same=True)),
    (lambda t: t.all(), Public(frozenset(), frozenset({0}), everywhere=True, same=True), Public(same=True)),
    (lambda t: t.all(), Public(frozenset(), frozenset({0}), everywhere=True), None),
    (lambda t: t.argmax(0), Public(frozenset({0}), frozenset({0}), same=True), None),
    (lambda t: t.sum(1), FOLLOWS, Public(frozenset({0}))),
    (lambda t: t.softmax(0), FOLLOWS, None),
    (lambda t: t.T @ t, FOLLOWS, None),
    (lambda t: t.T, FOLLOWS, Public(frozenset({1}))),
    (lambda t: t[-1], Public(following=frozenset({0})), None),
    (lambda t: t[-1], FOLLOWS, PUBLIC),
    (lambda t: t + 1, SAME, SAME),
    (F.dropout, SAME, CONSTANT),
    (lambda t: t + torch.rand(3), SAME, Public(frozenset({0, 1}))),
]


@pytest.mark.parametrize("at", range(len(PUBLIC_CALLS)))
def test_public_tensors_as_long_as_the_batch_keep_the_rules_of_records(at: int) -> None:
    function, label, expected = PUBLIC_CALLS[at]
    if expected is None:
        with pytest.raises(Coupled):
            followed(function, torch.ones(N, 3), label)
    else:
        assert followed(function, torch.ones(N, 3), label) == expected


def test_public_following_dimension_must_be_that_of_the_records() -> None:
    x, y = torch.rand(N, 1), torch.ones(1, N)
    call = Call(torch.add, (x, y), {}, [x, y], [Records(0), Public(frozenset({1}), frozenset({1}))], N)
    with pytest.raises(Coupled, match="another dimension"):
        RULES[torch.add](call)


def test_sets_of_functions() -> None:
    assert {torch.zeros, torch.ones, Tensor.new_zeros} <= FACTORIES_SAME <= FACTORIES_CONSTANT
    assert torch.rand in FACTORIES_CONSTANT - FACTORIES_SAME
    assert not {torch.arange, torch.randperm, torch.eye} & FACTORIES_CONSTANT
    assert {torch.empty, torch.empty_like, Tensor.new_empty} <= FACTORIES_EMPTY
    assert set(RULES) >= FILLS
    assert {Tensor.size, Tensor.shape.__get__, Tensor.dim} <= METADATA
    assert not {Tensor.item, Tensor.data.__get__, Tensor.tolist} & METADATA
    assert not METADATA & set(RULES)
