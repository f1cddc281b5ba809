"""What both sides of a comparison start from: real digits, a target and generators trained on them, and the draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks import Attack, Knowledge, Reconstructions, Target
from dpmi.attacks.priors import FeatureStatistics, Prior, Surrogates, WganGP, fetch
from dpmi.attacks.priors.style.network import Features
from dpmi.data import load

SHAPE = (1, 16, 16)
CLASSES = torch.tensor([3, 0, 8])
#: What the attacks are seeded with.
SEED = 5

#: Largest difference of any latent, feature or pixel after one step, and after :data:`STEPS`.
AFTER_ONE, AFTER_ALL, STEPS = 1e-5, 1e-3, 300
LIMITS = {1: AFTER_ONE, STEPS: AFTER_ALL}

#: Length of a latent.
SIZE = 16
WGAN = WganGP(steps=100, batch_size=32, learning_rate=2e-3, width=0.15, latent_size=SIZE)
STUDENTS = Surrogates(steps=25, count=2)
STATISTICS = FeatureStatistics(count=200)


def _enlarged(images: Tensor) -> Tensor:
    return F.interpolate(images, SHAPE[1:], mode="bilinear").clamp(0, 1)


@cache
def public() -> Tensor:
    """float32 (300, 1, 16, 16): digits that the target was not trained on."""
    return _enlarged(load("digits").test.images)


@cache
def classifier() -> nn.Sequential:
    """A convolutional classifier of ten digits, trained on the private images; the head is its last layer.

    Tanh, average pooling and weight decay make its loss smooth. Without them the steps of GMI at its default rate
    amplify the rounding of float64 to 1e-3 within 125 steps.
    """
    train = load("digits").train
    images = _enlarged(train.images)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers: list[nn.Module] = []
        for before, after in ((1, 8), (8, 16)):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.BatchNorm2d(after),
                nn.Tanh(),
                nn.AvgPool2d(2),
            ]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
        for _ in range(150):
            rows = torch.randint(len(images), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), train.labels[rows]).backward()
            optimizer.step()
    model.eval().requires_grad_(False)
    assert (model(images).argmax(dim=1) == train.labels).double().mean() > 0.95
    return model


@cache
def _trained(prior: Prior) -> nn.Module:
    return fetch(
        prior,
        public=public(),
        target=Target(classifier()),
        image_shape=SHAPE,
        num_classes=10,
        folder=None,
        progress=lambda done, steps: None,
    )


@contextmanager
def in_float64(*priors: Prior) -> Iterator[tuple[nn.Sequential, Knowledge]]:
    """The target, and what an attacker knows of public images, in float64, the default type inside the block.

    Both sides compute in float64, so that what differs after 300 steps is the computation and not its rounding.
    """
    modules = tuple(deepcopy(_trained(prior)).double() for prior in priors)
    model, known = deepcopy(classifier()).double(), Knowledge(public().double(), modules)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield model, known
    finally:
        torch.set_default_dtype(before)


@dataclass
class Seen:
    """The inputs of a generator, or of its synthesis network, call by call, as a hook of torch records them."""

    inputs: list[Tensor] = field(default_factory=list)
    """The latents, or the styles."""
    blocks: list[str | None] = field(default_factory=list)
    """The block that the synthesis begins with."""
    hidden: list[Tensor | None] = field(default_factory=list)
    """The features that enter this block."""


@contextmanager
def watching(module: nn.Module) -> Iterator[Seen]:
    """Record the inputs of each call of the module, copied: a search changes them in place."""
    seen = Seen()

    def record(_: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        seen.inputs.append(inputs[0].detach().clone())
        seen.blocks.append(options.get("start_block"))
        features = options.get("features") or Features()
        seen.hidden.append(None if features.hidden is None else features.hidden.detach().clone())

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def attacked(
    attack: Attack, model: nn.Module, known: Knowledge, classes: Tensor = CLASSES
) -> Reconstructions:
    """Run the attack by its public interface."""
    drawn = torch.Generator().manual_seed(SEED)
    return attack.run(model, classes, image_shape=SHAPE, generator=drawn, knowledge=known)


def seed_of_run() -> int:
    """The seed that ``run`` draws from its generator, from which all other generators derive."""
    return int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(SEED)))


def stream(label: int, number: int) -> torch.Generator:
    """The random generator of one class and one of its restarts."""
    state = np.random.SeedSequence((seed_of_run(), label, number)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def draws(label: int, number: int, size: int, *, uniform: bool = False) -> Callable[[], Tensor]:
    """A function that draws the next ``size`` numbers of a stream; the product draws blocks of about 2^14 of them."""
    drawn, count = stream(label, number), max(1, 2**14 // size)
    draw = torch.rand if uniform else torch.randn

    def rows() -> Iterator[Tensor]:
        while True:
            yield from draw(count, size, generator=drawn)

    return rows().__next__


@contextmanager
def default_draws() -> Iterator[None]:
    """What a run draws from torch's default generator is drawn again inside the block."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of_run())
        yield


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, of what is finite."""
    assert bool(found.isfinite().all())
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == torch.float64
    return float((found - expected).detach().abs().max())
