"""Loops: what users do around the criterion."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from .harness import Case, Session, plain_loop
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


def scaled(s: Session) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            scaler.scale(s.criterion(s.model(x), y)).backward()
            scaler.step(s.optimizer)
            scaler.update()


def sharpness_aware(s: Session) -> None:
    """SAM, by hand: climbs, computes the gradient there, and comes back."""
    parameters = list(s.model.parameters())
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            before = [p.detach().clone() for p in parameters]
            climb = [torch.zeros_like(p) if p.grad is None else 0.05 * p.grad.sign() for p in parameters]
            with torch.no_grad():
                for p, c in zip(parameters, climb, strict=True):
                    p.add_(c)
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            with torch.no_grad():
                for p, b in zip(parameters, before, strict=True):
                    p.copy_(b)
            s.optimizer.step()


def gradient_penalty(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            x.requires_grad_()
            out = s.model(x)
            (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
            (s.criterion(out, y) + slope.square().sum(1).mean()).backward()
            s.optimizer.step()


def parameter_gradient_penalty(s: Session) -> None:
    """A penalty on the length of the gradient of all parameters."""
    parameters = list(s.model.parameters())
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            slopes = torch.autograd.grad(loss, parameters, create_graph=True)
            (loss + 0.1 * sum(g.square().sum() for g in slopes)).backward()
            s.optimizer.step()


def adversarial(s: Session) -> None:
    """Records are moved uphill, then trained on."""
    for _ in range(s.epochs):
        for x, y in s.loader:
            moved = x.clone().requires_grad_()
            (uphill,) = torch.autograd.grad(s.criterion(s.model(moved), y), moved)
            s.optimizer.zero_grad()
            s.criterion(s.model(x + 0.1 * uphill.sign()), y).backward()
            s.optimizer.step()


def two_passes(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            (s.criterion(s.model(x), y) + s.criterion(s.model(x * 0.9), y)).backward()
            s.optimizer.step()


def two_backwards(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            s.criterion(s.model(x * 0.9), y).backward()
            s.optimizer.step()


def evaluated_inside(s: Session) -> None:
    held_out = torch.ones(4, FEATURES)
    for _ in range(s.epochs):
        for x, y in s.loader:
            with torch.no_grad():
                s.model(held_out).argmax(1).tolist()
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            s.optimizer.step()
            s.model.eval()
            with torch.no_grad():
                s.model(held_out)
            s.model.train()


def metrics(*, first: bool) -> Callable[[Session], None]:
    def loop(s: Session) -> None:
        total = 0.0
        for _ in range(s.epochs):
            for x, y in s.loader:
                out = s.model(x)
                if first:
                    total += (out.argmax(1) == y).float().mean().item()
                loss = s.criterion(out, y)
                total += loss.item() + float((out.detach().argmax(1) == y).sum())
                s.optimizer.zero_grad()
                loss.backward()
                s.optimizer.step()

    return loop


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
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            if not left and float(x.abs().max()) > 5:
                left = True
                break
            loss.backward()
            s.optimizer.step()


def one_at_a_time(s: Session) -> None:
    for _ in range(60):
        x, y = next(iter(s.loader))
        s.optimizer.zero_grad()
        s.criterion(s.model(x), y).backward()
        s.optimizer.step()


def clipped_by_the_user(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            nn.utils.clip_grad_norm_(s.model.parameters(), 0.3)
            s.optimizer.step()


def retained(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward(retain_graph=True)
            s.optimizer.step()


def gradients_by_hand(s: Session) -> None:
    parameters = list(s.model.parameters())
    for _ in range(s.epochs):
        for x, y in s.loader:
            found = torch.autograd.grad(s.criterion(s.model(x), y), parameters)
            for p, g in zip(parameters, found, strict=True):
                p.grad = g
            s.optimizer.step()


def autocast(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = s.criterion(s.model(x), y)
            loss.backward()
            s.optimizer.step()


def scheduled(s: Session) -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(s.old_optimizer, 100)
    for _ in range(s.epochs):
        plain_loop(_once(s))
        scheduler.step()


def cut_in_half(s: Session) -> None:
    """Each half of a batch goes through the module by itself."""
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            half = (len(x) + 1) // 2
            out = torch.cat([s.model(x[:half]), s.model(x[half:])]) if len(x) > 1 else s.model(x)
            s.criterion(out, y).backward()
            s.optimizer.step()


def trains_on_the_batch_before(s: Session) -> None:
    """A tensor that is carried from one batch to the next."""
    last = torch.zeros(1, FEATURES)
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.model(x - last), y).backward()
            s.optimizer.step()
            last = x.mean(0)


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


def doubled() -> nn.Module:
    return mlp().double()


def couples(name: str, loop: Callable[[Session], None]) -> Case:
    """Sound with one user at a time; where users share a batch, a rehearsal sees it."""
    return Case(f"loop: {name}", mlp, loop=loop, auto="runs", shared="refused", exact=False)


def couples_later(name: str, loop: Callable[[Session], None]) -> Case:
    return Case(f"loop: {name}", mlp, loop=loop, auto="either", shared="refused", exact=False)


def shares(name: str, loop: Callable[[Session], None], **options: Any) -> Case:
    return Case(f"loop: {name}", options.pop("model", mlp), loop=loop, **options)


def alone(name: str, loop: Callable[[Session], None]) -> Case:
    """Has to run where one user is computed at a time."""
    return Case(f"loop: {name}", mlp, loop=loop, auto="runs", shared="either", exact=False)


def refused(name: str, loop: Callable[[Session], None], **options: Any) -> Case:
    return Case(
        f"loop: {name}",
        mlp,
        loop=loop,
        **{"alone": "refused", "auto": "refused", "shared": "refused", **options},
    )


CASES = [
    couples("mixup", on_inputs(mixup)),
    couples_later("mixup half the time", on_inputs(mixup_half_the_time)),
    couples_later("mixup for more than ten", on_inputs(mixup_for_more_than_ten)),
    couples_later("mixup from epoch two", mixup_from_epoch_two),
    couples("inputs normalized by the batch", on_inputs(normalized)),
    couples("permuted", on_inputs(permuted)),
    couples("inputs permuted", on_inputs(only_inputs_permuted)),
    Case(
        "loop: mixup of two losses", mlp, loop=mixup_of_two_losses, auto="runs", shared="either", exact=False
    ),
    shares("never zeroed", never_zeroed),
    shares("zeroed after", zeroed_after),
    shares("zeroed between forward and backward", zeroed_between_forward_and_backward),
    shares("inputs normalized by constants", on_inputs(lambda x, y: ((x - 0.5) / 0.2, y))),
    shares("inputs of another type", on_inputs(lambda x, y: (x.to(torch.float64), y)), model=doubled),
    shares("inputs flipped", on_inputs(lambda x, y: (x.flip(-1), y)), model=cnn, data="images"),
    shares("evaluation inside", evaluated_inside),
    shares("metrics before the criterion", metrics(first=True)),
    shares("metrics after the criterion", metrics(first=False)),
    shares("broken off", broken_off, exact=False),
    shares("one at a time", one_at_a_time),
    shares("scheduler", scheduled),
    alone("retained graph", retained),
    alone("autocast", autocast),
    alone("scaled gradients", scaled),
    alone("sharpness-aware", sharpness_aware),
    alone("gradient penalty", gradient_penalty),
    alone("penalty on the gradient of parameters", parameter_gradient_penalty),
    alone("adversarial records", adversarial),
    alone("two passes", two_passes),
    alone("two backward passes", two_backwards),
    alone("clipped by the user", clipped_by_the_user),
    alone("gradients by hand", gradients_by_hand),
    Case(
        "loop: cut in half",
        mlp,
        loop=cut_in_half,
        alone="either",
        auto="either",
        shared="either",
        exact=False,
    ),
    Case("loop: skipped", mlp, loop=skipped, alone="either", auto="either", shared="either", exact=False),
    Case(
        "loop: the batch before",
        mlp,
        loop=trains_on_the_batch_before,
        alone="outside",
        auto="either",
        shared="either",
        exact=False,
    ),
    refused("accumulated", accumulated),
    refused("closure", closure),
    refused("second optimizer", second_optimizer(over_all), shared="either"),
    refused("original optimizer", second_optimizer(original), shared="either"),
    refused("old optimizer", old_optimizer),
    refused("old loader", old_loader),
    refused("old objects", old_objects),
]
