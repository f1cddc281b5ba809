"""MIRROR, side by side with the published loop, ``mirror_attack`` in my_whitebox_mirror_helper.py.

What differs on purpose is in the docstring of the attack, and in the loop here: each search keeps its own position of
least loss (the published one keeps that after the step from the best of the batch), the rates begin with step 0 of the
ramps (the published ones with step 1), the deviations of the box are unbiased, and only the candidates are truncated.

Modules: dpmi/attacks/mirror.py, dpmi/attacks/style_attack.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms as T

from dpmi.attacks import Mirror
from dpmi.attacks.priors import StyleGenerator

from .common import CLASSES, LIMITS, SIZE, apart, attacked, default_draws, in_float64, seed_of_run, watching
from .styles import CANDIDATES, CUTOFF, PRIOR, initial_styles, shown, style_generator

RESTARTS, PSI = 3, 0.7
ATTACK = Mirror(candidates=CANDIDATES, psi=PSI, cutoff=CUTOFF, restarts=RESTARTS, prior=PRIOR)


def bounds(generator: StyleGenerator) -> tuple[Tensor, Tensor]:
    """The styles between which each entry is clipped: one deviation around the mean, before the activation."""
    drawn = torch.Generator().manual_seed(seed_of_run())
    w = generator.mapping(torch.randn(10_000, SIZE, generator=drawn))[:, 0]
    inverse, activation = nn.LeakyReLU(5.0), nn.LeakyReLU(0.2)
    p = inverse(w)
    return activation(p.mean(dim=0) - p.std(dim=0)), activation(p.mean(dim=0) + p.std(dim=0))


def rate(share: float) -> float:
    """adjust_lr: a rise over the first twentieth, half a cosine over the last quarter."""
    falling = min(1, (1 - share) / 0.25)
    return 0.2 * (0.5 - 0.5 * math.cos(falling * math.pi)) * min(1, share / 0.05)


def published(
    generator: StyleGenerator, model: nn.Module, w: Tensor, labels: Tensor, *, steps: int
) -> tuple[Tensor, Tensor]:
    """The styles (steps + 1, rows, size), and the loss of each row at each."""
    low, high = bounds(generator)
    flip = T.Compose(
        [T.RandomResizedCrop(16, scale=(1.0, 1.0), ratio=(1.0, 1.0)), T.RandomHorizontalFlip(0.5)]
    )
    w = w.clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=0.2, betas=(0.9, 0.999), eps=1e-8)
    path, losses = [w.detach().clone()], []
    for step in range(steps + 1):
        # The crop of the whole image changes nothing, but draws the place of its corner.
        loss = F.cross_entropy(model(flip(shown(generator, w))), labels, reduction="none")
        losses.append(loss.detach())
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(step / steps)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        w.data = torch.max(torch.min(w.data, high), low)
        path.append(w.detach().clone())
    return torch.stack(path), torch.stack(losses)


@pytest.mark.parametrize("steps", [1, 4, 300])
def test_every_style_is_the_published_one(steps: int) -> None:
    """With a single step the rate is 0, and the box alone moves the styles."""
    limit = LIMITS[1] if steps == 1 else LIMITS[300]
    with in_float64(*ATTACK.priors()) as (model, known):
        generator = style_generator(known.modules[0])
        with watching(generator.synthesis) as seen:
            found = attacked(replace(ATTACK, iterations=steps), model, known)
        labels = CLASSES.repeat_interleave(RESTARTS)
        start = initial_styles(generator, model, per_class=RESTARTS, psi=PSI, mirror=False)
        with default_draws():
            expected, losses = published(generator, model, start, labels, steps=steps)

        _, *searched, last = seen.inputs
        searched = torch.stack(searched)
        assert (searched == searched[:, :, :1]).all(), "one style for all layers"
        assert apart(searched[:3, :, 0], expected[:3]) <= LIMITS[1]
        assert apart(searched[:, :, 0], expected) <= limit
        at = losses.argmin(dim=0)
        kept = expected[at, range(len(at))]
        assert apart(last[:, 0], kept) <= limit
        images = shown(generator, kept)
        sure = model(images).softmax(dim=1).gather(1, labels[:, None]).view(-1, RESTARTS)
        best = sure.argmax(dim=1) + RESTARTS * torch.arange(len(CLASSES))
        assert apart(found.images, images[best]) <= limit
        assert found.iterations.tolist() == at[best].tolist()
        assert steps == 1 or (expected[-1] - expected[1]).abs().mean() > 0.05
