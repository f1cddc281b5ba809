"""What loops do with outputs, targets and the loss: outside the criterion, users who share a batch meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .harness import Case, Session
from .separate import Around, Language, mlp
from .users import CLASSES, FEATURES, VOCABULARY


def on_loss(change: Callable[[Tensor], Tensor]) -> Callable[[Session], None]:
    """What the loop does with the scalar."""

    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                change(s.criterion(s.model(x), y)).backward()
                s.optimizer.step()

    return loop


def on_batch(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Session], None]:
    """What the loop does with outputs and targets before the criterion."""

    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                s.criterion(*change(s.model(x), y)).backward()
                s.optimizer.step()

    return loop


def outside_the_criterion(extra: Callable[[Tensor], Tensor]) -> Callable[[Session], None]:
    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                out = s.model(x)
                (s.criterion(out, y) + extra(out)).backward()
                s.optimizer.step()

    return loop


def running_maximum(s: Session) -> None:
    """Carries a number from batch to batch by itself."""
    largest = 1.0
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            largest = max(largest, loss.item())
            (loss / largest).backward()
            s.optimizer.step()


def penalty_on_parameters(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            (loss + 0.01 * sum(p.square().sum() for p in s.model.parameters())).backward()
            s.optimizer.step()


def distillation(s: Session) -> None:
    torch.manual_seed(9)
    teacher = nn.Linear(FEATURES, CLASSES)
    for _ in range(s.epochs):
        for x, _ in s.loader:
            with torch.no_grad():
                soft = teacher(x).softmax(1)
            s.optimizer.zero_grad()
            s.criterion(s.model(x), soft).backward()
            s.optimizer.step()


def activation_by_hook(s: Session) -> None:
    """A loss on what a hook took out of the forward pass, beside the criterion."""
    seen: list[Tensor] = []
    handle = s.old_model.first.register_forward_hook(lambda _, __, out: seen.append(out))  # type: ignore[union-attr, operator]
    for _ in range(s.epochs):
        for x, y in s.loader:
            seen.clear()
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            (loss + 3 * seen[-1].mean(0).square().sum()).backward()
            s.optimizer.step()
    handle.remove()


def activation_by_attribute(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            (loss + 3 * s.old_model.features.mean(0).square().sum()).backward()  # type: ignore[union-attr, operator]
            s.optimizer.step()


def keeps(m: Any, h: Tensor) -> Tensor:
    m.features = h
    return h


def couples(name: str, loop: Callable[[Session], None], **options: Any) -> Case:
    """What the loop does would mix users who share a batch."""
    return Case(name, mlp, loop=loop, auto="either", shared="either", exact=False, options=options)


CASES = [
    Case(
        "loop: flattened by the loop",
        Language,
        nn.CrossEntropyLoss,
        on_batch(lambda out, y: (out.reshape(-1, VOCABULARY), y.reshape(-1))),
        data="tokens",
        options={"max_grad_norm": 1.0},
    ),
    Case(
        "loop: running maximum of the loss",
        mlp,
        loop=running_maximum,
        alone="outside",
        auto="either",
        shared="either",
        exact=False,
    ),
    Case("loop: constant factor", mlp, loop=on_loss(lambda loss: loss / 4)),
    couples("loop: loss ** 2", on_loss(lambda loss: loss**2), max_grad_norm=6.0),
    couples("loop: loss.log()", on_loss(lambda loss: loss.add(1).log()), max_grad_norm=1.5),
    couples("loop: loss * loss.detach()", on_loss(lambda loss: loss * loss.detach()), max_grad_norm=6.0),
    couples(
        "loop: loss over loss.item()", on_loss(lambda loss: loss / (0.1 + loss.item())), max_grad_norm=1.5
    ),
    couples("loop: floor of the loss", on_loss(lambda loss: (loss - 3).abs())),
    couples("loop: rolled outputs", on_batch(lambda out, y: (out + 3 * out.roll(1, 0), y))),
    couples("loop: centred outputs", on_batch(lambda out, y: (out - out.mean(0), y))),
    couples(
        "loop: scaled outputs",
        on_batch(lambda out, y: (out / (0.1 + out.detach().abs().max()), y)),
        max_grad_norm=1.5,
    ),
    couples("loop: flipped targets", on_batch(lambda out, y: (out, y.flip(0)))),
    couples("loop: shuffled targets", on_batch(lambda out, y: (out, y[torch.randperm(len(y))]))),
    couples("loop: rare records dropped", on_batch(lambda out, y: (out[y < 3], y[y < 3]))),
    couples(
        "loop: penalty on the mean output", outside_the_criterion(lambda out: 3 * out.mean(0).square().sum())
    ),
    couples("loop: penalty on parameters", penalty_on_parameters),
    couples("loop: distillation", distillation),
    Case(
        "loop: activation by a hook",
        Around,
        loop=activation_by_hook,
        auto="either",
        shared="either",
        exact=False,
    ),
    Case(
        "loop: activation by an attribute",
        lambda: Around(keeps),
        loop=activation_by_attribute,
        alone="either",
        auto="either",
        shared="either",
        exact=False,
    ),
]
