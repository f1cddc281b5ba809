"""Modules that mix the records of a batch: sound with one user at a time, and refused where users share a batch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .harness import Case
from .separate import Around, Inner, with_parameter
from .users import CLASSES, FEATURES

Gradients = tuple[Tensor, ...] | Tensor


def normalized(_: Any, h: Tensor) -> Tensor:
    return (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-2).sqrt()


def if_training(inner: Inner) -> Inner:
    return lambda m, h: inner(m, h) if m.training else h


def mixstyle(_: Any, h: Tensor) -> Tensor:
    """MixStyle on (n, 8): mean and deviation of a record are mixed with those of another."""
    mean, std = h.mean(1, keepdim=True), h.std(1, keepdim=True) + 1e-2
    other = torch.randperm(len(h))
    return (h - mean) / std * (0.1 * std + 0.9 * std[other]) + 0.1 * mean + 0.9 * mean[other]


def manifold_mixup(_: Any, h: Tensor) -> Tensor:
    return 0.5 * h + 0.5 * h.flip(0)


def for_more_than_ten(_: Any, h: Tensor) -> Tensor:
    return h - h.mean(0) if len(h) > 10 else h


def half_the_time(_: Any, h: Tensor) -> Tensor:
    return h - h.mean(0) if random.random() < 0.5 else h


def every_third_call(m: Any, h: Tensor) -> Tensor:
    m.calls = getattr(m, "calls", 0) + 1
    return h - h.mean(0) if m.calls % 3 == 2 else h


def sees_a_size(_: Any, h: Tensor) -> Tensor:
    """Sizes that no rehearsal of a few records has."""
    return h * -3 if len(h) in range(30, 60) else h


def cumulated(m: Any, h: Tensor) -> Tensor:
    """Record i gets i times the parameter."""
    return h + m.p.expand(len(h), 8).cumsum(0)


def by_size(m: Any, h: Tensor) -> Tensor:
    return h + m.p / len(h)


def over_places(m: Any, h: Tensor) -> Tensor:
    return h + m.p.expand(len(h), 8).sum(0) / 10


def set_rows(_: Any, h: Tensor) -> Tensor:
    out = h.clone()
    out[1:] = h[1:] - 2 * h[:-1]
    return out


def through_numpy(_: Any, h: Tensor) -> Tensor:
    return h - torch.from_numpy(h.detach().numpy().mean(0))


def through_a_list(_: Any, h: Tensor) -> Tensor:
    columns = np.asarray(h.detach().tolist(), dtype=np.float32)
    return h - torch.as_tensor(columns.mean(0))


def strided(_: Any, h: Tensor) -> Tensor:
    return h - torch.as_strided(h.contiguous(), h.shape, (0, 1), (len(h) - 1) * h.shape[1])


def scattered(_: Any, h: Tensor) -> Tensor:
    group = (h[:, 0] > 0).long()
    return h - torch.zeros(2, h.shape[1]).index_add(0, group, h)[group]


def distances(_: Any, h: Tensor) -> Tensor:
    return F.softmax(-torch.cdist(h, h), 1) @ h - h


def attention(_: Any, h: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(h[None], h[None], h[None])[0] - h


def closest(_: Any, h: Tensor) -> Tensor:
    return h - h[(h @ h.T).argmax(1)]


def in_vmap(_: Any, h: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: row - h.mean(0))(h)


def convolved(_: Any, h: Tensor) -> Tensor:
    return h - F.avg_pool1d(h.T[None], 5, 1, 2)[0].T


def reshaped(_: Any, h: Tensor) -> Tensor:
    return h - h.T.reshape(len(h), -1)


def masked(_: Any, h: Tensor) -> Tensor:
    return h - h[h[:, 0] < 0].sum(0)


class CentredForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:  # type: ignore[override]
        return h - h.mean(0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


class CentredBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:  # type: ignore[override]
        return h.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g.sum(0).expand_as(g) * 5


def tensor_hook(_: Any, h: Tensor) -> Tensor:
    out = h * 1
    if out.requires_grad:
        out.register_hook(lambda g: g.sum(0).expand_as(g) * 5)
    return out


def module_hook() -> nn.Module:
    """A full backward hook on the last layer."""
    module = Around()

    def mix(_: nn.Module, gradients: Gradients, __: Gradients) -> tuple[Tensor]:
        return (gradients[0].sum(0).expand_as(gradients[0]) * 5,)

    module.last.register_full_backward_hook(mix)
    return module


def forward_hook() -> nn.Module:
    """A forward hook on the first layer."""
    module = Around()
    module.first.register_forward_hook(lambda _, __, out: out - out.mean(0))
    return module


class HypernetworkOfTheBatch(nn.Module):
    """A layer whose weights follow from all records."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(F.linear(x, torch.tanh(x.T @ x)))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))


MIXING: dict[str, Inner] = {
    "home-made batch norm": normalized,
    "home-made batch norm, if training": if_training(normalized),
    "mixstyle, if training": if_training(mixstyle),
    "manifold mixup, if training": if_training(manifold_mixup),
    "setitem": set_rows,
    "numpy round trip": through_numpy,
    "list round trip": through_a_list,
    "as_strided": strided,
    "index_add": scattered,
    "cdist": distances,
    "attention over the batch": attention,
    "x @ x.T": closest,
    "vmap that closes over the batch": in_vmap,
    "pooling over the batch": convolved,
    "reshape of the transposed": reshaped,
    "mask": masked,
    "custom forward": lambda _, h: CentredForward.apply(h),
    "custom backward": lambda _, h: CentredBackward.apply(h),
    "hook of a tensor": tensor_hook,
    "branch on item()": lambda _, h: -h if h.abs().max().item() > 0.999 else h,
    "branch on a tensor": lambda _, h: -h if h.abs().max() > 0.999 else h,
    "where any": lambda _, h: torch.where((h.abs() > 0.999).any(), -h, h),
    "norm of the batch": lambda _, h: h * 4 / h.norm(),
    "x / len(x)": lambda _, h: h * 20 / len(h),
    "arange(len(x))": lambda _, h: h * (torch.arange(len(h))[:, None] - 3.0),
    "sorted records": lambda _, h: h.sort(0).values,
    "softmax over the records": lambda _, h: 20 * h.softmax(0),
    "cumsum over the records": lambda _, h: h.cumsum(0),
    "flip": lambda _, h: h - 2 * h.flip(0),
    "roll": lambda _, h: h - 2 * h.roll(1, 0),
    "triangle": lambda _, h: torch.tril(torch.ones(len(h), len(h))) @ h,
    "einsum": lambda _, h: torch.einsum("ni,mi->nm", h, h).softmax(1) @ h - h,
    "repeat": lambda _, h: h - h.repeat(2, 1)[1 : 1 + len(h)],
    "outer": lambda _, h: (h[:, None] - h[None]).mean(1),
    "first record": lambda _, h: h - h[-1:],
    "topk over the records": lambda _, h: h - h.topk(1, 0).values,
    "layer norm of the transposed": lambda _, h: F.layer_norm(h.T, (len(h),)).T,
}
"""Seen in a rehearsal of a few records, or before."""


def around(inner: Inner) -> Any:
    return lambda: Around(inner)


CASES = [
    *(
        Case(name, around(inner), auto="runs", shared="refused", exact=False)
        for name, inner in MIXING.items()
    ),
    Case("hook of a module", module_hook, auto="runs", shared="refused", exact=False),
    Case("forward hook", forward_hook, auto="runs", shared="refused", exact=False),
    Case("weights by the batch", HypernetworkOfTheBatch, auto="runs", shared="refused", exact=False),
    Case(
        "for more than ten records", around(for_more_than_ten), auto="either", shared="refused", exact=False
    ),
    Case("a learned line by place", with_parameter(cumulated), auto="runs", shared="refused", exact=False),
    Case("a learned line by size", with_parameter(by_size), auto="runs", shared="refused", exact=False),
    Case(
        "a learned mean over places", with_parameter(over_places), auto="runs", shared="refused", exact=False
    ),
    Case("half the time", around(half_the_time), auto="either", shared="refused", exact=False),
    Case(
        "every third call",
        around(every_third_call),
        alone="either",
        auto="either",
        shared="refused",
        exact=False,
    ),
    Case("certain sizes", around(sees_a_size), auto="either", shared="refused", exact=False),
    Case("batch norm", batch_norm, alone="refused", auto="refused", shared="refused"),
]
