"""When loops step, with which optimizer, and how they leave the loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from .harness import Case, Expectation, Session, plain_loop
from .separate import mlp


def never_zeroed(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.criterion(s.model(x), y).backward()
            s.optimizer.step()


def zeroed_after(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.criterion(s.model(x), y).backward()
            s.optimizer.step()
            s.optimizer.zero_grad()


def zeroed_between_forward_and_backward(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            loss = s.criterion(s.model(x), y)
            s.optimizer.zero_grad()
            loss.backward()
            s.optimizer.step()


def accumulated(s: Session) -> None:
    """The idiom of accumulation: most batches are not stepped."""
    for _ in range(s.epochs):
        for i, (x, y) in enumerate(s.loader):
            (s.criterion(s.model(x), y) / 4).backward()
            if i % 4 == 3:
                s.optimizer.step()
                s.optimizer.zero_grad()


def closure(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:

            def evaluate(x: Tensor = x, y: Tensor = y) -> Tensor:
                s.optimizer.zero_grad()
                loss = s.criterion(s.model(x), y)
                loss.backward()
                return loss

            s.optimizer.step(evaluate)


def skipped(s: Session) -> None:
    """Steps are left out where the loss is large."""
    for _ in range(s.epochs):
        for x, y in s.loader:
            loss = s.criterion(s.model(x), y)
            if loss.item() > 3:
                continue
            s.optimizer.zero_grad()
            loss.backward()
            s.optimizer.step()


def broken_off(s: Session) -> None:
    """Leaves once, where the loss is large, and comes back."""
    left = False
    for _ in range(s.epochs + 2):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            if not left and float(x.abs().max()) > 5:
                left = True
                break
            loss.backward()
            s.optimizer.step()


def one_at_a_time(s: Session) -> None:
    for _ in range(26):
        x, y = next(iter(s.loader))
        s.optimizer.zero_grad()
        s.criterion(s.model(x), y).backward()
        s.optimizer.step()


def scheduled(s: Session) -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(s.old_optimizer, 100)
    for _ in range(s.epochs):
        plain_loop(_once(s))
        scheduler.step()


def second_optimizer(make: Callable[[Session], Any]) -> Callable[[Session], None]:
    """Another optimizer steps beside the private one."""

    def loop(s: Session) -> None:
        second = make(s)
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                s.criterion(s.model(x), y).backward()
                second.step()
                s.optimizer.step()

    return loop


def over_all(s: Session) -> SGD:
    return SGD(s.old_model.parameters(), lr=0.1)


def original(s: Session) -> Any:
    return s.optimizer.original_optimizer if s.optimizer is not s.old_optimizer else s.old_optimizer


def old_objects(s: Session) -> None:
    plain_loop(
        Session(
            s.old_model,
            s.old_optimizer,
            nn.CrossEntropyLoss(),
            s.old_loader,
            s.old_model,
            s.old_optimizer,
            s.old_loader,
        )
    )


def old_loader(s: Session) -> None:
    plain_loop(
        Session(s.model, s.optimizer, s.criterion, s.old_loader, s.old_model, s.old_optimizer, s.old_loader)
    )


def old_optimizer(s: Session) -> None:
    plain_loop(
        Session(s.model, s.old_optimizer, s.criterion, s.loader, s.old_model, s.old_optimizer, s.old_loader)
    )


def _once(s: Session) -> Session:
    return Session(
        s.model, s.optimizer, s.criterion, s.loader, s.old_model, s.old_optimizer, s.old_loader, epochs=1
    )


def shares(name: str, loop: Callable[[Session], None], *, exact: bool = True) -> Case:
    return Case(f"loop: {name}", mlp, loop=loop, exact=exact)


def refused(name: str, loop: Callable[[Session], None], *, sharing: Expectation = "refused") -> Case:
    """``sharing`` is expected where users may share a batch, and parameters have no gradient of their own."""
    return Case(f"loop: {name}", mlp, loop=loop, alone="refused", auto=sharing, shared=sharing)


CASES = [
    shares("never zeroed", never_zeroed),
    shares("zeroed after", zeroed_after),
    shares("zeroed between forward and backward", zeroed_between_forward_and_backward),
    shares("broken off", broken_off, exact=False),
    shares("one at a time", one_at_a_time),
    shares("scheduler", scheduled),
    Case("loop: skipped", mlp, loop=skipped, alone="either", auto="either", shared="either", exact=False),
    refused("accumulated", accumulated),
    refused("closure", closure),
    refused("second optimizer", second_optimizer(over_all), sharing="either"),
    refused("original optimizer", second_optimizer(original), sharing="either"),
    refused("old optimizer", old_optimizer),
    refused("old loader", old_loader),
    refused("old objects", old_objects),
]
