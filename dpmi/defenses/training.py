"""The training loop that every defence goes through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from opacus.grad_sample import AbstractGradSampleModule
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from dpmi.data import ImageSet
from dpmi.privacy import Account

from .base import Defense

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train; SGD, the optimizer of [Z20].

    Args:
        steps: parameter updates T, at least 1; for a private defence, the steps that are billed.
        learning_rate: above 0, at the start.
        batch_size: records per step, where the defence does not draw them itself.
        momentum: in [0, 1).
        schedule: "constant", or "cosine" down to 0 at the last step.
    """

    steps: int
    learning_rate: float
    batch_size: int = 128
    momentum: float = 0.9
    schedule: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training.

    Args:
        model: the classifier, unwrapped, in evaluation mode.
        account: what it owes; None where nothing is promised.
        seconds: wall clock of the training.
    """

    model: nn.Module
    account: Account | None
    seconds: float


def train(
    defense: Defense,
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Trained:
    """Train ``model`` under ``defense`` for ``recipe.steps`` released updates.

    Args:
        defense: what changes.
        model: freshly built; it is trained in place.
        data: the private records.
        recipe: length and learning rate.
        seed: of batches, draws and noise.
        progress: called with (released updates, all updates).

    Raises:
        FloatingPointError: the loss is not finite; lower the learning rate.
    """
    started = time.perf_counter()
    model = defense.build(model).train()
    optimizer = torch.optim.SGD(
        [p for p in defense.trainable(model) if p.requires_grad],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
    )
    scheduler: LRScheduler | None = None
    if recipe.schedule == "cosine":
        scheduler = CosineAnnealingLR(optimizer, T_max=recipe.steps)
    done = 0

    def released(*_: object) -> None:
        # Runs once per update, also for those that the engine takes itself after an empty draw.
        nonlocal done
        done += 1
        if scheduler is not None:
            scheduler.step()
        if progress is not None:
            progress(done, recipe.steps)

    handle = optimizer.register_step_post_hook(released)
    session = defense.privatize(
        module=model,
        optimizer=optimizer,
        data=data,
        batch_size=recipe.batch_size,
        steps=recipe.steps,
        seed=seed,
    )
    while done < recipe.steps:
        for images, labels in session.loader:
            session.optimizer.zero_grad()
            loss = defense.loss(session.module, images, labels, done / recipe.steps)
            loss.backward()  # type: ignore[no-untyped-call]
            session.optimizer.step()
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of {defense.label} is {loss.item()} after {done} of {recipe.steps} steps; lower the "
                    f"learning rate ({recipe.learning_rate})"
                )
            if done >= recipe.steps:
                break
    handle.remove()
    account = None if session.account is None else session.account()
    return Trained(model=unwrap(session.module).eval(), account=account, seconds=time.perf_counter() - started)


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside a privacy wrapper, with the wrapper's hooks and attributes taken off."""
    if isinstance(module, AbstractGradSampleModule):
        inner: nn.Module = module._module
        module.cleanup()
        return inner
    return module
