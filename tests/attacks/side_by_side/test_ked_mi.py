"""KED-MI and LOMMA with KED-MI, side by side with the published loop, ``dist_inversion`` in attack.py of both.

The discriminator's minibatch discrimination gives its mean of training, as the docstring of the layer says: the
published layer compares the images of all classes of a batch.

Modules: dpmi/attacks/ked_mi.py, dpmi/attacks/lomma.py, dpmi/attacks/latent_attack.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks import KedMi, LommaKedMi
from dpmi.attacks.priors import Gan, InversionGan

from .common import CLASSES, LIMITS, SIZE, STATISTICS, STUDENTS, apart, attacked, draws, in_float64, watching
from .identity import cross_entropy, regularized_logit

COUNT = 4
PRIOR = InversionGan(steps=60, batch_size=32, learning_rate=2e-3, width=0.15, latent_size=SIZE)
ATTACKS = [
    KedMi(images_per_class=COUNT, prior=PRIOR),
    LommaKedMi(images_per_class=COUNT, prior=PRIOR, surrogates=STUDENTS, statistics=STATISTICS),
]


def evidence(discriminator: nn.Module, images: Tensor) -> Tensor:
    """log_sum_exp of the published utils.py: of the logits less their largest."""
    logits = discriminator(images)
    largest = logits.max(dim=1).values
    return largest + (logits - largest[:, None]).exp().sum(dim=1).log()


def published(
    gan: Gan,
    identity: Callable[[Tensor], Tensor],
    noise: Callable[[], Tensor],
    *,
    steps: int,
    clamp: bool,
) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    """The latents that the generator gets in each step, (classes, d), and what makes latents of noise at the end.

    Args:
        gan: G and D.
        identity: the identity loss of each class.
        noise: draws (classes, d).
        steps: number of steps.
        clamp: whether latents are clamped to [-1, 1], as in LOMMA.
    """
    mu = torch.zeros(len(CLASSES), SIZE, requires_grad=True)
    log_variance = torch.ones(len(CLASSES), SIZE, requires_grad=True)
    solver = torch.optim.Adam([mu, log_variance], lr=2e-2)

    def latents(eps: Tensor) -> Tensor:
        z = mu + (0.5 * log_variance).exp() * eps
        return z.clamp(-1, 1) if clamp else z

    path = []
    for _ in range(steps):
        z = latents(noise())
        path.append(z.detach())
        fake = gan.generator(z)
        real = evidence(gan.discriminator, fake)
        prior_loss = F.softplus(real).mean() - real.mean()
        solver.zero_grad()
        (prior_loss + 100 * identity(fake).mean()).backward()
        solver.step()
    path.append(latents(noise()).detach())
    return path, lambda eps: latents(eps).detach()


@pytest.mark.parametrize("steps", LIMITS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_sample_is_the_published_one(attack: KedMi, steps: int) -> None:
    with in_float64(*attack.priors()) as (model, known):
        gan, *others = known.modules
        assert isinstance(gan, Gan)
        with watching(gan.generator) as seen:
            found = attacked(replace(attack, iterations=steps), model, known)

        if isinstance(attack, LommaKedMi):
            students, moments = others
            identity = regularized_logit(model, list(students), lambda: moments.mean)
        else:
            identity = cross_entropy(model)
        of_classes = [draws(label, 0, SIZE) for label in CLASSES.tolist()]
        path, last = published(
            gan,
            identity,
            lambda: torch.stack([draw() for draw in of_classes]),
            steps=steps,
            clamp=isinstance(attack, LommaKedMi),
        )
        searched, expected = torch.stack(seen.inputs[:-1]), torch.stack(path)
        # The first step shows in the second sample.
        assert apart(searched[:2], expected[:2]) <= LIMITS[1]
        assert apart(searched, expected) <= LIMITS[steps]
        clamped = isinstance(attack, LommaKedMi)
        assert bool((seen.inputs[-1].abs() > 1).any()) != clamped

        # Fresh samples, of a stream of their own.
        fresh = [draws(label, 1, COUNT * SIZE)().view(COUNT, SIZE) for label in CLASSES.tolist()]
        samples = torch.stack([last(eps) for eps in torch.stack(fresh, dim=1)], dim=1).flatten(0, 1)
        assert apart(seen.inputs[-1], samples) <= LIMITS[steps]
        assert apart(found.images, gan.generator(samples)) <= LIMITS[steps]
