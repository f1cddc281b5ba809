"""What loops do around the criterion: several passes, gradients of gradients, metrics, precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .harness import Case, Session
from .separate import mlp
from .users import FEATURES


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


def shares(name: str, loop: Callable[[Session], None]) -> Case:
    return Case(f"loop: {name}", mlp, loop=loop)


def alone(name: str, loop: Callable[[Session], None]) -> Case:
    """Has to run where one user is computed at a time."""
    return Case(f"loop: {name}", mlp, loop=loop, auto="runs", shared="either", exact=False)


CASES = [
    shares("evaluation inside", evaluated_inside),
    shares("metrics before the criterion", metrics(first=True)),
    shares("metrics after the criterion", metrics(first=False)),
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
]
