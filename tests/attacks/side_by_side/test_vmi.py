"""VMI, side by side with the loop of the published attack_stylegan.py, for one distribution of each class.

What differs on purpose is in the docstrings of the attack and of its families: one distribution of latents instead of
one for each layer of a StyleGAN; Adam instead of SGD; an exact divergence of the Gaussians; and a flow of additive
couplings with ReLU, whose divergence is a mean over the samples that the target sees, instead of further ones.

Modules: dpmi/attacks/vmi.py, dpmi/attacks/latent_attack.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn import functional as F

from dpmi.attacks import Vmi
from dpmi.attacks.priors import Gan

from .common import CLASSES, LIMITS, SIZE, WGAN, apart, attacked, draws, in_float64, seed_of_run, watching

DRAWS, COUNT, RATE, WEIGHT = 4, 3, 0.01, 0.05


class Miner(ABC):
    """q of one class: maps noise to latents, and has a divergence from N(0, I)."""

    parameters: list[Tensor]

    @abstractmethod
    def __call__(self, eps: Tensor) -> Tensor:
        """Return the latents (m, d) of noise (m, d)."""

    @abstractmethod
    def divergence(self, eps: Tensor, z: Tensor) -> Tensor:
        """Return KL(q || N(0, I)), or its estimate by the samples z of the noise eps."""


class Gaussian(Miner):
    """z = mu + L eps, with a diagonal or a lower triangular L, whose diagonal is positive."""

    def __init__(self, *, full: bool) -> None:
        self.mean = torch.zeros(SIZE, requires_grad=True)
        self.log_diagonal = torch.zeros(SIZE, requires_grad=True)
        self.below = torch.zeros(SIZE, SIZE, requires_grad=full)
        self.parameters = [self.mean, self.log_diagonal, *([self.below] if full else [])]
        self.half = 1.0 if full else 0.5  # the diagonal family learns the logarithm of the variance

    def factor(self) -> Tensor:
        return self.below.tril(-1) + (self.half * self.log_diagonal).exp().diag()

    def __call__(self, eps: Tensor) -> Tensor:
        return torch.stack([self.mean + self.factor() @ one for one in eps])

    def divergence(self, eps: Tensor, z: Tensor) -> Tensor:
        normal = MultivariateNormal(torch.zeros(SIZE), torch.eye(SIZE))
        own = MultivariateNormal(self.mean, scale_tril=self.factor())
        return kl_divergence(own, normal)  # type: ignore[no-any-return]


class AdditiveFlow(Miner):
    """Ten times: scale each entry, shuffle the entries, add a network of the first half to the second."""

    def __init__(self) -> None:
        drawn, half = torch.Generator().manual_seed(seed_of_run()), SIZE // 2
        self.orders = [torch.randperm(SIZE, generator=drawn) for _ in range(10)]
        first = torch.randn(10, half, 100, generator=drawn) / half**0.5
        self.steps = [
            {
                "scale": torch.zeros(SIZE),
                "weight": own.clone(),
                "hidden": torch.zeros(100),
                "last": torch.zeros(100, half),
                "bias": torch.zeros(half),
            }
            for own in first
        ]
        self.parameters = [value.requires_grad_() for step in self.steps for value in step.values()]

    def __call__(self, eps: Tensor) -> Tensor:
        z = eps
        for step, order in zip(self.steps, self.orders, strict=True):
            z = (z * step["scale"].exp())[:, order]
            first, second = z.chunk(2, dim=1)
            added = F.linear(
                F.relu(F.linear(first, step["weight"].T, step["hidden"])), step["last"].T, step["bias"]
            )
            z = torch.cat([first, second + added], dim=1)
        return z

    def divergence(self, eps: Tensor, z: Tensor) -> Tensor:
        """The mean of ln q(z) - ln N(z): only the scales change the volume."""
        normal = torch.distributions.Normal(0.0, 1.0)
        log_volume = sum(step["scale"].sum() for step in self.steps)
        log_q = normal.log_prob(eps).sum(dim=1) - log_volume
        return (log_q - normal.log_prob(z).sum(dim=1)).mean()


MINERS: dict[str, Any] = {
    "diagonal": lambda: Gaussian(full=False),
    "full": lambda: Gaussian(full=True),
    "flow": AdditiveFlow,
}


def published(gan: Gan, model: nn.Module, label: int, miner: Miner, *, steps: int) -> list[Tensor]:
    """The latents of each step, (DRAWS, d) each, of a fixed label."""
    optimizer, noise = torch.optim.Adam(miner.parameters, lr=RATE), draws(label, 0, DRAWS * SIZE)
    path = []
    for step in range(steps + 1):
        eps = noise().view(DRAWS, SIZE)
        z = miner(eps)
        path.append(z.detach())
        if step == steps:
            break
        log_softmax = model(gan.generator(z)).log_softmax(dim=1)
        loss = -log_softmax[:, label].mean() + WEIGHT * miner.divergence(eps, z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return path


@pytest.mark.parametrize("steps", LIMITS)
@pytest.mark.parametrize("family", MINERS)
def test_every_sample_is_the_published_one(family: str, steps: int) -> None:
    attack = Vmi(
        family=family, learning_rate=RATE, draws=DRAWS, kl_weight=WEIGHT, images_per_class=COUNT, prior=WGAN
    )  # type: ignore[arg-type]
    classes = CLASSES[:2] if family == "diagonal" else CLASSES[:1]
    with in_float64(*attack.priors()) as (model, known):
        (gan,) = known.modules
        assert isinstance(gan, Gan)
        with watching(gan.generator) as seen:
            found = attacked(replace(attack, iterations=steps), model, known, classes)
        searched = torch.stack(seen.inputs[:-1]).view(steps + 1, len(classes), DRAWS, SIZE)
        for row, label in enumerate(classes.tolist()):
            miner = MINERS[family]()
            expected = torch.stack(published(gan, model, label, miner, steps=steps))
            assert apart(searched[:2, row], expected[:2]) <= LIMITS[1]
            assert apart(searched[:, row], expected) <= LIMITS[steps]
            fresh = draws(label, 1, COUNT * SIZE)().view(COUNT, SIZE)
            samples = miner(fresh).detach()
            assert apart(seen.inputs[-1].view(-1, COUNT, SIZE)[row], samples) <= LIMITS[steps]
            assert apart(found.images[found.labels == label], gan.generator(samples)) <= LIMITS[steps]
            assert steps == 1 or (samples - fresh).abs().mean() > 0.1
