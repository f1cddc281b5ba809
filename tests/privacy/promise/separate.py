"""Modules that keep records apart: they must not be refused, and most of them share a physical batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from .harness import Case, Session
from .users import CLASSES, FEATURES, LENGTH, VOCABULARY

Inner = Callable[[Any, Tensor], Tensor]


class Around(nn.Module):
    """Two layers around a function of the module and of (n, 8)."""

    def __init__(self, inner: Inner = lambda _, h: h) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 8)
        self.last = nn.Linear(8, CLASSES)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self, torch.tanh(self.first(x))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


class Pooled(nn.Module):
    """Words to a class."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 8, **options)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(1))


class Language(nn.Module):
    """A language model: (n, 5) to (n, 5, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x)))


class Tied(nn.Module):
    """A language model whose last layer is its first: (n, 5) to (n, 5, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 8)
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.layer(self.words(x))), self.words.weight)


class Recurrent(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.rnn = nn.LSTM(FEATURES, 8, batch_first=batch_first)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.head(self.rnn(x)[0][:, -1])
        return self.head(self.rnn(x.transpose(0, 1))[0][-1])


class Attending(nn.Module):
    """An encoder with a class token and positions that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 0.1)
        self.position = nn.Parameter(torch.randn(1, LENGTH + 1, 8) * 0.1)
        self.inputs = nn.Linear(FEATURES, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), self.inputs(x)], 1) + self.position
        return self.head(self.layer(h)[:, 0])


class Siamese(nn.Module):
    """Twice the batch in one call of the body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.tanh(self.body(torch.cat([x, x * 2]))).chunk(2)
        return self.head(one * two)


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x), "inputs": x}


class Pair(Dictionary):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.body(x), x


def constrained(constrain: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return nn.Sequential(constrain(nn.Linear(FEATURES, 8)), nn.Tanh(), nn.Linear(8, CLASSES))

    return make


def spectral(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(layer, n_power_iterations=60)


def frozen_batch_norm() -> nn.Module:
    norm = nn.BatchNorm1d(8).requires_grad_(False).eval()
    return nn.Sequential(nn.Linear(FEATURES, 8), norm, nn.Linear(8, CLASSES))


def checkpointed(*, use_reentrant: bool) -> Callable[[], nn.Module]:
    def inner(m: Any, h: Tensor) -> Tensor:
        return checkpoint(torch.sigmoid, h * 2, use_reentrant=use_reentrant)

    return lambda: Around(inner)


def mapped(_: nn.Module, h: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: row / (1 + row.square().sum()))(h)


def with_parameter(inner: Inner) -> Callable[[], nn.Module]:
    """Two layers around a function that also uses a parameter (8,)."""

    def make() -> nn.Module:
        module = Around(inner)
        module.p = nn.Parameter(torch.randn(8) * 0.3)
        return module

    return make


def repeated(m: Any, h: Tensor) -> Tensor:
    return h + m.p.repeat(len(h), 1).tanh()


def branch(_: nn.Module, h: Tensor) -> Tensor:
    return h * 2 if random.random() < 0.5 else h


def logits_loop(pick: Callable[[Any], Tensor]) -> Callable[[Session], None]:
    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                s.criterion(pick(s.model(x)), y).backward()
                s.optimizer.step()

    return loop


def on_dictionary() -> Callable[..., Tensor]:
    return lambda out, y: F.cross_entropy(out["logits"], y)


def on_pair() -> Callable[..., Tensor]:
    return lambda out, y: F.cross_entropy(out[0], y)


def words_criterion() -> Callable[..., Tensor]:
    return lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten())


CASES = [
    Case("mlp", mlp),
    Case("cnn with group norm", cnn, data="images"),
    Case("embedding, pooled", Pooled, data="words"),
    Case("language model", Language, words_criterion, data="tokens"),
    Case("tied weights", Tied, words_criterion, data="tokens"),
    Case("lstm", lambda: Recurrent(batch_first=True), data="sequences", auto="runs", shared="either"),
    Case(
        "lstm, time first",
        lambda: Recurrent(batch_first=False),
        data="sequences",
        auto="runs",
        shared="either",
    ),
    Case("attention within a record", Attending, data="sequences"),
    Case("siamese, twice the batch", Siamese),
    Case("weight norm", constrained(parametrizations.weight_norm)),
    Case("a scale and an offset that are learned", with_parameter(lambda m, h: h * m.p.exp() + m.p)),
    Case("a learned line for each record", with_parameter(lambda m, h: h + m.p.expand(len(h), 8).tanh())),
    Case("a learned line repeated for each record", with_parameter(repeated), auto="runs", shared="either"),
    Case(
        "draws on a learned line",
        with_parameter(lambda m, h: h + F.dropout(m.p.expand(len(h), 8), 0.5)),
        auto="runs",
        shared="either",
        exact=False,
    ),
    Case("spectral norm", constrained(spectral), shared="either", auto="runs", exact=False),
    Case("frozen batch norm in evaluation", frozen_batch_norm, auto="runs", shared="runs"),
    Case("dropout", lambda: Around(lambda _, h: F.dropout(h, 0.3)), exact=False),
    Case("noise", lambda: Around(lambda _, h: h + 0.1 * torch.randn_like(h)), exact=False),
    Case(
        "stochastic depth",
        lambda: Around(lambda _, h: h * (torch.rand(len(h), 1) > 0.3)),
        exact=False,
    ),
    Case("checkpointed", checkpointed(use_reentrant=False), auto="runs", shared="either"),
    Case("checkpointed, reentrant", checkpointed(use_reentrant=True), auto="runs", shared="either"),
    Case("vmap over the records", lambda: Around(mapped), auto="runs", shared="either"),
    Case("a branch by Python's random", lambda: Around(branch), auto="either", shared="either", exact=False),
    Case("outputs in a dictionary", Dictionary, on_dictionary),
    Case("outputs in a tuple", Pair, on_pair),
    Case("one output of a dictionary", Dictionary, loop=logits_loop(lambda out: out["logits"])),
    Case("one output of a tuple", Pair, loop=logits_loop(lambda out: out[0])),
]
