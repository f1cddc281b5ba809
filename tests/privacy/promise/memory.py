"""Modules that carry something of one batch to the next, or move a parameter: unsound in every mode."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .harness import Case, Loop, Session, plain_loop
from .separate import Around, Inner, Pooled, mlp
from .users import CLASSES, FEATURES

BANK: list[Tensor] = []
"""Outside every module."""


class Remembering(Around):
    """Has a place of every kind to keep something in."""

    def __init__(self, inner: Inner) -> None:
        super().__init__(inner)
        self.list: list[Tensor] = []
        self.deque: deque[Tensor] = deque(maxlen=2)
        self.dict: dict[str, Tensor] = {}
        self.kept = torch.zeros(1, 8)
        self.statistics = [torch.zeros(8), torch.ones(8)]
        self.array = np.zeros(8, dtype=np.float32)
        self.number = 0.0
        self.random = np.random.default_rng(0)
        self.frozen = nn.Parameter(torch.zeros(8), requires_grad=False)
        self.register_buffer("buffer", torch.zeros(8))
        self.buffer: Tensor
        BANK.clear()


def in_list(m: Any, h: Tensor) -> Tensor:
    out = h - 5 * torch.cat(m.list).mean(0) if m.list else h
    m.list.append(h.detach())
    return out


def in_deque(m: Any, h: Tensor) -> Tensor:
    out = h - 5 * torch.cat(list(m.deque)).mean(0) if m.deque else h
    m.deque.append(h.detach().clone())
    return out


def in_dict(m: Any, h: Tensor) -> Tensor:
    out = h - 5 * m.dict.get("last", torch.zeros(8))
    m.dict["last"] = h.detach().mean(0)
    return out


def in_attribute(m: Any, h: Tensor) -> Tensor:
    out = h - 5 * m.kept
    m.kept = 0.5 * m.kept + 0.5 * h.detach().mean(0)
    return out


def in_attribute_in_place(m: Any, h: Tensor) -> Tensor:
    m.kept.mul_(0.5).add_(0.5 * h.detach().mean(0))
    return h - 5 * m.kept


def in_attribute_view(m: Any, h: Tensor) -> Tensor:
    out = h - 5 * m.kept
    m.kept.detach()[:].copy_(h.detach().mean(0, keepdim=True))
    return out


def in_attribute_data(m: Any, h: Tensor) -> Tensor:
    out = h - 5 * m.kept
    m.kept.data.copy_(h.detach().mean(0, keepdim=True))
    return out


def in_statistics(m: Any, h: Tensor) -> Tensor:
    """No version counter tells of what batch normalisation writes."""
    out = h - 5 * m.statistics[0]
    F.batch_norm(h.detach(), *m.statistics, training=True, momentum=1.0)
    return out


def in_statistics_of_a_buffer(m: Any, h: Tensor) -> Tensor:
    out = h - 5 * m.buffer
    F.batch_norm(h.detach(), m.buffer, torch.ones(8), training=True, momentum=1.0)
    return out


def in_another_name() -> Inner:
    """What depends on no record is made by one pass, and written to in its view."""
    calls: list[int] = []

    def inner(m: Any, h: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) % 2:
            m.kept = torch.zeros(1, 8)
            m.kept[:].copy_(h.detach().mean(0))
            return h
        return h - 5 * m.kept

    return inner


def in_global(_: Any, h: Tensor) -> Tensor:
    out = h - 5 * torch.cat(BANK).mean(0) if BANK else h
    BANK.append(h.detach())
    return out


def in_closure() -> Inner:
    kept: list[Tensor] = []

    def inner(_: Any, h: Tensor) -> Tensor:
        out = h - 5 * torch.cat(kept).mean(0) if kept else h
        kept.append(h.detach())
        return out

    return inner


def in_array(m: Any, h: Tensor) -> Tensor:
    m.array = 0.5 * m.array + 0.5 * h.detach().numpy().mean(0)
    return h - 5 * torch.from_numpy(m.array)


def in_number(m: Any, h: Tensor) -> Tensor:
    m.number = 0.7 * m.number + 0.3 * h.var(0, unbiased=False).mean().item()
    return h * (1 - 6 * m.number)


NUMBERS = {"average": 0.0}


def in_global_number(_: Any, h: Tensor) -> Tensor:
    out = h * (1 - 6 * NUMBERS["average"])
    NUMBERS["average"] = h.var(0, unbiased=False).mean().item()
    return out


def in_closure_number() -> Inner:
    average = 0.0

    def inner(_: Any, h: Tensor) -> Tensor:
        nonlocal average
        out, average = h * (1 - 6 * average), h.var(0, unbiased=False).mean().item()
        return out

    return inner


class Slot:
    __slots__ = ("average",)

    def __init__(self) -> None:
        self.average = 0.0


def in_slot() -> Inner:
    slot = Slot()

    def inner(_: Any, h: Tensor) -> Tensor:
        out, slot.average = h * (1 - 6 * slot.average), h.var(0, unbiased=False).mean().item()
        return out

    return inner


def as_seed(_: Any, h: Tensor) -> Tensor:
    """The next bucket's draw would be chosen by this one's records."""
    out = h * (1 + 5 * torch.rand(()))
    torch.manual_seed(int(h.detach().abs().mean().item() * 1e6))
    return out


def as_seed_of_numpy(_: Any, h: Tensor) -> Tensor:
    out = h * (1 + 5 * np.random.rand())  # noqa: NPY002
    np.random.seed(int(h.detach().abs().mean().item() * 1e6))  # noqa: NPY002
    return out


def as_seed_of_python(_: Any, h: Tensor) -> Tensor:
    out = h * (1 + 5 * random.random())
    random.seed(h.detach().abs().mean().item())
    return out


def as_draws(m: Any, h: Tensor) -> Tensor:
    """How often this bucket draws would choose what the next one gets."""
    out = h * (1 + 5 * m.random.random())
    for _ in range(int(h.detach().abs().mean().item() * 1e6) % 7):
        m.random.random()
    return out


def in_frozen(m: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        m.frozen.mul_(0.9).add_(h.mean(0))
    return h - 5 * m.frozen


def in_frozen_data(m: Any, h: Tensor) -> Tensor:
    m.frozen.data = 0.9 * m.frozen.data + h.detach().mean(0)
    return h - 5 * m.frozen


def in_frozen_memory(m: Any, h: Tensor) -> Tensor:
    """Neither version nor storage change."""
    m.frozen.numpy()[:] += h.detach().numpy().mean(0)
    return h - 5 * m.frozen


def in_frozen_view(m: Any, h: Tensor) -> Tensor:
    m.frozen.detach()[:4].copy_(h.detach().mean(0)[:4])
    return h - 5 * m.frozen


def in_buffer(m: Any, h: Tensor) -> Tensor:
    m.buffer.mul_(0.9).add_(h.detach().mean(0))
    return h - 5 * m.buffer


def in_new_buffer(m: Any, h: Tensor) -> Tensor:
    m.buffer = 0.9 * m.buffer + h.detach().mean(0)
    return h - 5 * m.buffer


def in_evaluation(m: Any, h: Tensor) -> Tensor:
    """Moves only where nothing is trained."""
    if not torch.is_grad_enabled():
        m.buffer.mul_(0.9).add_(h.mean(0))
    return h - 5 * m.buffer


def in_trained(m: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        m.moved.bias.add_(10 * h.mean())
    return h


def in_trained_data(m: Any, h: Tensor) -> Tensor:
    m.moved.bias.data += 10 * h.detach().mean()
    return h


def in_hook(m: Any, h: Tensor) -> Tensor:
    """The gradient of the last batch goes into that of this one."""
    out = h * 1

    def mix(g: Tensor) -> Tensor:
        mixed = g.sum(0) - 5 * m.kept
        m.kept = g.detach().sum(0)
        return mixed.expand_as(g)

    if out.requires_grad:
        out.register_hook(mix)
    return out


def in_hook_number(_: Any, h: Tensor) -> Tensor:
    out = h * (1 - 6 * NUMBERS["average"])

    def keep(g: Tensor) -> None:
        NUMBERS["average"] = 100 * g.norm().item()

    if out.requires_grad:
        out.register_hook(keep)
    return out


class KeepingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h * (1 - 6 * NUMBERS["average"])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        out = g * (1 - 6 * NUMBERS["average"])
        NUMBERS["average"] = 100 * g.norm().item()
        return out


class BankingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h.exp())
        return h - 5 * torch.cat(BANK).mean(0) if BANK else h * 1

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        BANK.append(g)
        return g


class SavingBackward(BankingBackward):
    """What it keeps is the output of the forward pass, a new object without a label."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        out = h - 5 * torch.cat(BANK).mean(0) if BANK else h * 1
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        BANK.append(ctx.saved_tensors[0])
        return g


class WritingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, kept: Tensor) -> Tensor:
        out = h - 5 * kept
        ctx.kept = kept
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.kept.copy_(ctx.saved_tensors[0].mean(0))
        return g, None


class KeepingForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        out = h * (1 - 6 * NUMBERS["average"])
        NUMBERS["average"] = h.norm().item()
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


class Owner(Remembering):
    def __init__(self, inner: Inner) -> None:
        super().__init__(inner)
        self.moved = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.moved(self.inner(self, torch.tanh(self.first(x))))


class Renormalized(nn.Module):
    """A weight that the forward pass brings to length 1, times what the records are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, FEATURES) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.div_(self.weight.norm() / x.norm().clamp(0.1, 30))
        return x @ self.weight.T


def with_evaluation(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            with torch.no_grad():
                s.model(x)
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            s.optimizer.step()


def through_the_old_module(s: Session) -> None:
    """The private loader and optimizer, and the forward pass of the module that was wrapped."""
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.old_model(x), y).backward()
            s.optimizer.step()


def refused(name: str, model: Callable[[], nn.Module], loop: Loop = plain_loop, **options: Any) -> Case:
    return Case(
        name, model, loop=loop, alone="refused", auto="refused", shared="refused", exact=False, **options
    )


def remembering(inner: Inner) -> Callable[[], nn.Module]:
    return lambda: Remembering(inner)


def drawing(name: str, inner: Inner) -> Case:
    """Each bucket goes on where the one before it began."""
    return Case(name, remembering(inner), alone="runs", auto="runs", shared="refused", exact=False)


CASES = [
    refused("bank in a list", remembering(in_list)),
    refused("bank in a deque", remembering(in_deque)),
    refused("bank in a dictionary", remembering(in_dict)),
    refused("bank in a global list", remembering(in_global)),
    refused("bank in a closure", lambda: Remembering(in_closure())),
    refused("average in an attribute", remembering(in_attribute)),
    refused("average in an attribute, in place", remembering(in_attribute_in_place)),
    refused("average in a view of an attribute", remembering(in_attribute_view)),
    refused("average in an attribute's data", remembering(in_attribute_data)),
    refused("average in batch normalisation's statistics", remembering(in_statistics)),
    refused("average in batch normalisation's buffer", remembering(in_statistics_of_a_buffer)),
    refused("average in a tensor of no records, by a view of it", lambda: Remembering(in_another_name())),
    refused("average in a numpy array", remembering(in_array)),
    refused("average in a number", remembering(in_number)),
    refused("average in a global number", remembering(in_global_number)),
    refused("average in a closure's number", lambda: Remembering(in_closure_number())),
    refused("average in an object's slot", lambda: Remembering(in_slot())),
    refused("gradient in a number, by a hook", remembering(in_hook_number)),
    refused(
        "gradient in a number, by a function of its own", remembering(lambda _, h: KeepingBackward.apply(h))
    ),
    refused(
        "gradient in a bank, by a function of its own", remembering(lambda _, h: BankingBackward.apply(h))
    ),
    refused("output in a bank, by a function of its own", remembering(lambda _, h: SavingBackward.apply(h))),
    refused(
        "output in a buffer, by a function of its own",
        remembering(lambda m, h: WritingBackward.apply(h, m.buffer)),
    ),
    refused(
        "average in a number, by a function of its own", remembering(lambda _, h: KeepingForward.apply(h))
    ),
    drawing("average as a seed", as_seed),
    drawing("average as NumPy's seed", as_seed_of_numpy),
    drawing("average as Python's seed", as_seed_of_python),
    drawing("average as the number of draws", as_draws),
    refused("average in a frozen parameter", remembering(in_frozen)),
    refused("average in a frozen parameter's data", remembering(in_frozen_data)),
    refused("average in a frozen parameter's memory", remembering(in_frozen_memory)),
    refused("average in a view of a frozen parameter", remembering(in_frozen_view)),
    refused("average in a buffer", remembering(in_buffer)),
    refused("average in a new buffer", remembering(in_new_buffer)),
    refused("average that moves in evaluation", remembering(in_evaluation), with_evaluation),
    refused("moved bias", lambda: Owner(in_trained)),
    refused("moved bias's data", lambda: Owner(in_trained_data)),
    refused("weight of length by the batch", Renormalized),
    refused("embedding with max_norm", lambda: Pooled(max_norm=0.5), data="words"),
    refused("bank, through the old module", remembering(in_list), through_the_old_module),
    Case(
        "gradient kept by a hook",
        remembering(in_hook),
        alone="either",
        auto="either",
        shared="either",
        exact=False,
    ),
    Case(
        "old module, new optimizer",
        mlp,
        loop=through_the_old_module,
        alone="either",
        auto="either",
        shared="either",
    ),
]
