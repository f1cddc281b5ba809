"""GMI and LOMMA with GMI, side by side with the published loop, ``inversion`` in attack.py of both.

What differs on purpose is in the docstring of the attack, and in the loop here: each class has its own loss, so its
rate is that of a mean over the classes, divided by their number; each restart keeps its position of least cost, not its
last; and the restart of most confidence is returned, where the published code compares logits.

Modules: dpmi/attacks/gmi.py, dpmi/attacks/lomma.py, dpmi/attacks/latent_attack.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Gmi, LommaGmi
from dpmi.attacks.priors import Gan

from .common import (
    CLASSES,
    LIMITS,
    SIZE,
    STATISTICS,
    STUDENTS,
    WGAN,
    apart,
    attacked,
    classifier,
    default_draws,
    in_float64,
    public,
    stream,
    watching,
)
from .identity import cross_entropy, regularized_logit


def published(
    generator: nn.Module,
    discriminator: nn.Module,
    z: Tensor,
    identity: Callable[[Tensor], Tensor],
    *,
    rate: float,
    steps: int,
) -> tuple[list[Tensor], Tensor]:
    """The positions of one restart, (classes, d) each, and the cost of each class at each position.

    Args:
        generator, discriminator: G and D.
        z: the start.
        identity: the identity loss of each class.
        rate: the published learning rate, of the mean over the classes.
        steps: number of steps.
    """
    v, path, costs = torch.zeros_like(z), [z], []
    for _ in range(steps):
        z = z.clone().requires_grad_()
        fake = generator(z)
        prior_loss, identity_loss = -discriminator(fake), identity(fake)
        (prior_loss.mean() + 100 * identity_loss.mean()).backward()
        costs.append((prior_loss + 100 * identity_loss).detach())
        assert z.grad is not None
        v_before, v = v, 0.9 * v - rate * z.grad
        z = (z.detach() - 0.9 * v_before + 1.9 * v).clamp(-1, 1)
        path.append(z)
    with torch.no_grad():
        fake = generator(z)
        costs.append(-discriminator(fake) + 100 * identity(fake))
    return path, torch.stack(costs)


GMI = Gmi(restarts=2, prior=WGAN)
LOMMA = LommaGmi(restarts=1, prior=WGAN, surrogates=STUDENTS, statistics=STATISTICS)
SAMPLED = replace(LOMMA, regularizer="sampled")


@pytest.mark.parametrize(
    ("attack", "steps"),
    [*product((GMI, LOMMA), LIMITS), (SAMPLED, 1)],
    ids=["gmi-1", "gmi-300", "lomma-gmi-1", "lomma-gmi-300", "lomma-gmi-sampled-1"],
)
def test_every_position_is_the_published_one(attack: Gmi, steps: int) -> None:
    with in_float64(*attack.priors()) as (model, known):
        gan, *others = known.modules
        assert isinstance(gan, Gan)
        with watching(gan.generator) as seen:
            found = attacked(replace(attack, iterations=steps), model, known)

        # All restarts of the product share a batch, and with it each sample of the features.
        if isinstance(attack, LommaGmi):
            students, moments = others
            with default_draws():
                points = [
                    moments.mean + moments.std * torch.randn_like(moments.mean) * (attack is SAMPLED)
                    for _ in range(steps + 1)
                ]
        paths, costs = [], []
        for restart in range(attack.restarts):
            start = [torch.randn(SIZE, generator=stream(label, restart)) for label in CLASSES.tolist()]
            if isinstance(attack, LommaGmi):
                identity = regularized_logit(model, list(students), iter(points).__next__)
            else:
                identity = cross_entropy(model)
            path, cost = published(
                gan.generator,
                gan.discriminator,
                torch.stack(start),
                identity,
                rate=attack.learning_rate * len(CLASSES),
                steps=steps,
            )
            paths.append(torch.stack(path))
            costs.append(cost)

        # (steps + 1, classes, restarts, d)
        expected, cost = torch.stack(paths, dim=2), torch.stack(costs, dim=2)
        *searched, last = seen.inputs
        assert len(searched) == steps + 1
        searched = torch.stack(searched).view_as(expected)
        assert apart(searched[:2], expected[:2]) <= LIMITS[1]
        assert apart(searched, expected) <= LIMITS[steps]
        assert steps == 1 or (expected[-1] - expected[1]).abs().mean() > 0.05

        at = cost.argmin(dim=0)
        kept = expected.gather(0, at[None, :, :, None].expand(1, -1, -1, SIZE))[0]
        assert apart(last.view_as(kept), kept) <= LIMITS[steps]
        images = gan.generator(kept.flatten(0, 1))
        sure = model(images).softmax(dim=1).view(len(CLASSES), attack.restarts, -1)[range(3), :, CLASSES]
        best = sure.argmax(dim=1)
        assert (
            apart(found.images, images.view(len(CLASSES), attack.restarts, 1, 16, 16)[range(3), best])
            <= LIMITS[steps]
        )
        assert found.iterations.tolist() == at[range(3), best].tolist()
        assert apart(found.scores, sure[range(3), best]) <= LIMITS[steps]


def test_the_point_of_the_features_is_their_mean() -> None:
    """get_act_reg of LOMMA: mean and standard deviation over the first public images."""
    with in_float64(*LOMMA.priors()) as (_, known):
        features = classifier()[:-1](public()[:200]).double()
        moments = known.modules[2]
        assert apart(moments.mean, features.mean(dim=0)) <= LIMITS[1]
        assert apart(moments.std, features.std(dim=0)) <= LIMITS[1]
