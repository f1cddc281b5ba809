"""The training loop that every defence goes through."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from opacus.grad_sample import AbstractGradSampleModule
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from accountants import checks
from dpmi.data import ImageSet
from dpmi.privacy import Account

from .base import Defense

Progress = Callable[[int, int], None]

#: What the optimizer leaves on parameters and the wrapper on layers, and cleanup() does not take away.
_LEFTOVERS = ("summed_grad", "activations", "max_batch_len", "_norm_sample")


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

    def __post_init__(self) -> None:
        """Check every field once."""
        checks.integer("steps", self.steps, minimum=1)
        checks.integer("batch_size", self.batch_size, minimum=1)
        if checks.real("learning_rate", self.learning_rate) <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= checks.real("momentum", self.momentum) < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine', got {self.schedule!r}")


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

    The global random generators are put back as they were: a forward pass that draws from them, such as
    Dropout's, draws from ``seed``.

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
    with _own_randomness(model, seed), warnings.catch_warnings():
        for message in session.ignored_warnings:
            warnings.filterwarnings("ignore", message=message)
        while done < recipe.steps:
            for images, labels in session.loader:
                session.optimizer.zero_grad()
                loss = defense.loss(session.module, images, labels, done / recipe.steps)
                loss.backward()  # type: ignore[no-untyped-call]
                session.optimizer.step()
                # The mean loss of an empty draw of records is NaN; its update is noise alone, and counts.
                if len(images) > 0 and not math.isfinite(loss.item()):
                    raise FloatingPointError(
                        f"the loss of {defense.label} is {loss.item()} after {done} of {recipe.steps} steps; "
                        f"lower the learning rate ({recipe.learning_rate})"
                    )
                if done >= recipe.steps:
                    break
    handle.remove()
    account = None if session.account is None else session.account()
    trained = unwrap(session.module).eval()
    trained.zero_grad()
    return Trained(model=trained, account=account, seconds=time.perf_counter() - started)


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside a privacy wrapper, with the wrapper's hooks and attributes taken off."""
    if isinstance(module, AbstractGradSampleModule):
        inner: nn.Module = module._module
        module.cleanup()
        for owner in (*inner.parameters(), *inner.modules()):
            for name in _LEFTOVERS:
                vars(owner).pop(name, None)
        return inner
    return module


@contextmanager
def _own_randomness(model: nn.Module, seed: int) -> Iterator[None]:
    """Let a forward pass that draws noise draw from the seed, not from the caller's state."""
    cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed every device, and only these are put back.
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
