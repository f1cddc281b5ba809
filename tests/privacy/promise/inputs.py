"""What loops do with the records before the forward pass."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .harness import Case, Expectation, Session
from .separate import cnn, mlp
from .users import FEATURES

Batch = tuple[Tensor, Tensor]


def on_inputs(change: Callable[[Tensor, Tensor], Batch]) -> Callable[[Session], None]:
    """What the loop does with a batch before the forward pass."""

    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for batch in s.loader:
                x, y = change(*batch)
                s.optimizer.zero_grad()
                s.criterion(s.model(x), y).backward()
                s.optimizer.step()

    return loop


def mixup(x: Tensor, y: Tensor) -> Batch:
    return 0.5 * x + 0.5 * x.flip(0), y


def mixup_half_the_time(x: Tensor, y: Tensor) -> Batch:
    return mixup(x, y) if random.random() < 0.5 else (x, y)


def mixup_for_more_than_ten(x: Tensor, y: Tensor) -> Batch:
    return mixup(x, y) if len(x) > 10 else (x, y)


def normalized(x: Tensor, y: Tensor) -> Batch:
    return (x - x.mean(0)) / (x.std(0, unbiased=False) + 0.1), y


def permuted(x: Tensor, y: Tensor) -> Batch:
    order = torch.randperm(len(x))
    return x[order], y[order]


def only_inputs_permuted(x: Tensor, y: Tensor) -> Batch:
    return x[torch.randperm(len(x))], y


def mixup_from_epoch_two(s: Session) -> None:
    for epoch in range(s.epochs):
        for batch in s.loader:
            x, y = mixup(*batch) if epoch else batch
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            s.optimizer.step()


def mixup_of_two_losses(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            order = torch.arange(len(x)).flip(0)
            out = s.model(0.7 * x + 0.3 * x[order])
            (0.7 * s.criterion(out, y) + 0.3 * s.criterion(out, y[order])).backward()
            s.optimizer.step()
            s.optimizer.zero_grad()


def trains_on_the_batch_before(s: Session) -> None:
    """A tensor that is carried from one batch to the next."""
    last = torch.zeros(1, FEATURES)
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.model(x - last), y).backward()
            s.optimizer.step()
            last = x.mean(0)


def cut_in_half(s: Session) -> None:
    """Each half of a batch goes through the module by itself."""
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            half = (len(x) + 1) // 2
            out = torch.cat([s.model(x[:half]), s.model(x[half:])]) if len(x) > 1 else s.model(x)
            s.criterion(out, y).backward()
            s.optimizer.step()


def for_certain_sizes(x: Tensor, y: Tensor) -> Batch:
    """Sizes that no dry run has: each record by itself, as the records of all users say."""
    return (x * -3, y) if len(x) in range(30, 60) else (x, y)


def over_the_largest_of_a_copy(x: Tensor, y: Tensor) -> Batch:
    return x / (0.1 + copy.deepcopy(x).abs().max().item()), y


def scaled_by_an_evaluation(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            with torch.no_grad():
                largest = s.model(x).abs().max().item()
            s.optimizer.zero_grad()
            s.criterion(s.model(x * largest), y).backward()
            s.optimizer.step()


def doubled() -> nn.Module:
    return mlp().double()


def couples(name: str, loop: Callable[[Session], None], *, auto: Expectation = "runs") -> Case:
    """Sound with one user at a time; where users share a batch, it would mix them."""
    return Case(f"loop: {name}", mlp, loop=loop, auto=auto, shared="refused", exact=False)


def shares(name: str, change: Callable[[Tensor, Tensor], Batch], **options: Any) -> Case:
    return Case(f"loop: {name}", **{"model": mlp, **options}, loop=on_inputs(change))


def either(name: str, loop: Callable[[Session], None], **options: Any) -> Case:
    return Case(
        f"loop: {name}",
        mlp,
        loop=loop,
        **{"alone": "either", "auto": "either", **options},
        shared="either",
        exact=False,
    )


CASES = [
    couples("mixup", on_inputs(mixup)),
    couples("mixup half the time", on_inputs(mixup_half_the_time), auto="either"),
    couples("mixup for more than ten", on_inputs(mixup_for_more_than_ten), auto="either"),
    couples("mixup from epoch two", mixup_from_epoch_two, auto="either"),
    couples("inputs normalized by the batch", on_inputs(normalized)),
    couples("permuted", on_inputs(permuted)),
    couples("inputs permuted", on_inputs(only_inputs_permuted)),
    either("mixup of two losses", mixup_of_two_losses, alone="runs", auto="runs"),
    either("cut in half", cut_in_half),
    either("for certain sizes", on_inputs(for_certain_sizes), alone="runs"),
    either("over the largest number of a copy", on_inputs(over_the_largest_of_a_copy), alone="runs"),
    either("scaled by an evaluation", scaled_by_an_evaluation, alone="runs"),
    either("the batch before", trains_on_the_batch_before, alone="outside", auto="outside"),
    shares("inputs normalized by constants", lambda x, y: ((x - 0.5) / 0.2, y)),
    shares("inputs of another type", lambda x, y: (x.to(torch.float64), y), model=doubled),
    shares("inputs flipped", lambda x, y: (x.flip(-1), y), model=cnn, data="images"),
]
