"""Steps in the training of the priors, side by side with the published loops of GMI, KED-MI, PLG-MI and LOMMA.

Modules: dpmi/attacks/priors/wgan_gp.py, dpmi/attacks/priors/inversion_gan.py, dpmi/attacks/priors/conditional_gan.py,
dpmi/attacks/priors/surrogates.py, dpmi/attacks/priors/training.py.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks import Target
from dpmi.attacks.priors import ConditionalGan, Gan, InversionGan, Prior, Surrogates, WganGP

from .common import LIMITS, SHAPE, SIZE, apart, in_float64
from .test_plg_mi import max_margin, seen_anew

BATCH, RATE, EVERY = 24, 1e-3, 2
SMALL: dict[str, Any] = {
    "batch_size": BATCH,
    "learning_rate": RATE,
    "width": 0.1,
    "latent_size": SIZE,
}
Weights = dict[str, Tensor]


class Rows:
    """Batches of the public images: passes in random order, whose last rows are left out."""

    def __init__(self, count: int) -> None:
        self.count, self.left = count, torch.zeros(0, dtype=torch.int64)

    def next(self) -> Tensor:
        if len(self.left) < BATCH:
            self.left = torch.randperm(self.count)
        rows, self.left = self.left[:BATCH], self.left[BATCH:]
        return rows


def adam(network: nn.Module, betas: tuple[float, float]) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=RATE, betas=betas)


def train_wgan(gan: Gan, images: Tensor, model: nn.Module, *, steps: int, every: int) -> None:
    """train_gan.py of GMI: the Wasserstein distance and the gradient penalty."""
    of_critic, of_generator = adam(gan.discriminator, (0.5, 0.999)), adam(gan.generator, (0.5, 0.999))
    batches = Rows(len(images))
    for step in range(1, steps + 1):
        real = images[batches.next()]
        fake = gan.generator(torch.randn(BATCH, SIZE)).detach()
        distance = gan.discriminator(real).mean() - gan.discriminator(fake).mean()
        alpha = torch.rand(BATCH, 1, 1, 1)
        between = (real + alpha * (fake - real)).requires_grad_()
        values = gan.discriminator(between)
        (slopes,) = torch.autograd.grad(values, between, torch.ones_like(values), create_graph=True)
        penalty = ((slopes.flatten(1).norm(p=2, dim=1) - 1) ** 2).mean()
        of_critic.zero_grad()
        (-distance + 10 * penalty).backward()
        of_critic.step()
        if step % every == 0:
            loss = -gan.discriminator(gan.generator(torch.randn(BATCH, SIZE))).mean()
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()


def train_inversion_gan(gan: Gan, images: Tensor, model: nn.Module, *, steps: int, every: int) -> None:
    """k+1_gan.py of KED-MI, where one batch is what has labels, what has none, and what the generator must match.

    The published loop draws a batch for each of the three.
    """
    discriminator: Any = gan.discriminator
    of_discriminator, of_generator = adam(discriminator, (0.5, 0.999)), adam(gan.generator, (0.5, 0.999))
    batches = Rows(len(images))

    def features_and_logits(x: Tensor) -> tuple[Tensor, Tensor]:
        """MinibatchDiscriminator: exp of the distances to the other images of the batch are features too."""
        features, layer = discriminator.body(x), discriminator.closeness
        matrices = (features @ layer.tensor.weight.T).view(len(x), layer.features, -1)
        apart_by = (matrices[None] - matrices[:, None]).abs().sum(dim=3)
        near = (-apart_by).exp().sum(dim=0) - 1
        return features, discriminator.head(torch.cat([features, near], dim=1))

    for step in range(1, steps + 1):
        real = images[batches.next()]
        soft = model(real).softmax(dim=1)
        on_real = features_and_logits(real)[1]
        on_fake = features_and_logits(gan.generator(torch.randn(BATCH, SIZE)).detach())[1]
        of_labels = -(soft * on_real.log_softmax(dim=1)).sum() / BATCH
        evidence, of_fake = on_real.exp().sum(dim=1).log(), on_fake.exp().sum(dim=1).log()
        realism = F.softplus(evidence).mean() - evidence.mean() + F.softplus(of_fake).mean()
        of_discriminator.zero_grad()
        (of_labels + 0.5 * realism).backward()
        of_discriminator.step()
        if step % every == 0:
            moments, on_fake = features_and_logits(gan.generator(torch.randn(BATCH, SIZE)))
            of_real = features_and_logits(real)[0]
            entropy = -(on_fake.softmax(dim=1) * on_fake.log_softmax(dim=1)).sum()
            loss = (moments.mean(dim=0) - of_real.mean(dim=0)).abs().mean() + 1e-4 * entropy
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()


TOP_N, ALPHA = 20, 0.2


def train_conditional_gan(gan: Gan, images: Tensor, model: nn.Module, *, steps: int, every: int) -> None:
    """top_n_selection.py and train_cgan.py of PLG-MI.

    Here a step of the generator follows the steps of the discriminator (the published one precedes them), real images
    get no noise of 1/256, and the discriminator sees real and fake images at once, so that its spectral norms take one
    power iteration.
    """
    of_discriminator, of_generator = adam(gan.discriminator, (0.0, 0.9)), adam(gan.generator, (0.0, 0.9))
    confidence = model(images).softmax(dim=1)
    kept = [confidence[:, label].sort(descending=True).indices[:TOP_N] for label in range(10)]
    rows_of, labels_of = torch.cat(kept), torch.arange(10).repeat_interleave(TOP_N)
    batches = Rows(len(rows_of))
    for step in range(1, steps + 1):
        rows = batches.next()
        real, y = images[rows_of[rows]], labels_of[rows]
        pseudo_y = torch.randint(10, (BATCH,))
        fake = gan.generator(torch.randn(BATCH, SIZE), pseudo_y).detach()
        values = gan.discriminator(torch.cat([real, fake]), torch.cat([y, pseudo_y]))
        of_real, of_fake = values[:BATCH], values[BATCH:]
        of_discriminator.zero_grad()
        (torch.relu(1.0 - of_real).mean() + torch.relu(1.0 + of_fake).mean()).backward()
        of_discriminator.step()
        if step % every == 0:
            pseudo_y = torch.randint(10, (BATCH,))
            fake = gan.generator(torch.randn(BATCH, SIZE), pseudo_y)
            numbers = torch.rand(BATCH, 9).tolist()
            views = torch.stack([_augmented(*pair) for pair in zip(fake, numbers, strict=True)])
            misses = max_margin(model(views), pseudo_y)
            loss = -gan.discriminator(fake, pseudo_y).mean() + ALPHA * misses
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()


def _augmented(image: Tensor, numbers: list[float]) -> Tensor:
    """In training, brightness and contrast change for half of the images."""
    if numbers[5] >= 0.5:
        numbers = [*numbers[:3], 0.5, 0.5, *numbers[5:]]
    return seen_anew(image, numbers, mirror=False)


def distil(students: nn.ModuleList, images: Tensor, model: nn.Module, *, steps: int, every: int) -> None:
    """train_augmodel of LOMMA, for all students at once, at temperature 1."""
    optimizers = [torch.optim.SGD(s.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4) for s in students]
    batches = Rows(len(images))
    for _ in range(steps):
        data = images[batches.next()]
        teacher = model(data)
        for network, optimizer in zip(students, optimizers, strict=True):
            loss = (
                nn.KLDivLoss(reduction="sum")(network(data).log_softmax(dim=-1), teacher.softmax(dim=-1))
                / BATCH
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


CASES: dict[str, tuple[Callable[..., Prior], dict[str, Any], Callable[..., None]]] = {
    "gmi": (WganGP, SMALL, train_wgan),
    "ked-mi": (InversionGan, SMALL, train_inversion_gan),
    "plg-mi": (ConditionalGan, {**SMALL, "top_n": TOP_N, "alpha": ALPHA}, train_conditional_gan),
    "lomma": (Surrogates, {"batch_size": BATCH, "learning_rate": RATE, "count": 2}, distil),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("steps", "every"), [(1, 1), (30, 2)])
def test_weights_after_a_step_are_the_published_ones(name: str, steps: int, every: int) -> None:
    kind, settings, train = CASES[name]
    own = {} if name == "lomma" else {"generator_every": every}
    prior = kind(steps=steps, **settings, **own)
    with in_float64() as (model, known), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = prior.build(SHAPE, 10).train()
        start, expected = deepcopy(module), deepcopy(module)
        torch.default_generator.manual_seed(1)
        trainer = prior.trainer(module, known.public, Target(model))
        for _ in range(trainer.steps):
            trainer.step()
        torch.default_generator.manual_seed(1)
        train(expected, known.public, model, steps=steps, every=every)
        before, found, wanted = start.state_dict(), module.state_dict(), expected.state_dict()
        # The published layer keeps no mean of what it gave.
        names = [
            one
            for one, value in wanted.items()
            if value.is_floating_point() and "closeness.running" not in one
        ]
        assert max(apart(found[one], wanted[one]) for one in names) <= LIMITS[1]
        moved = [apart(before[one], wanted[one]) > LIMITS[1] for one in names]
        # What is before a normalization, or a bias of the critic, has no gradient.
        assert sum(moved) >= 0.8 * len(moved)
