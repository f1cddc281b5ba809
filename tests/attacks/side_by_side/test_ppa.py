"""PPA, side by side with the published find_initial_w, Optimization and scores_by_transform.

Modules: dpmi/attacks/ppa.py, dpmi/attacks/style_attack.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms as T

from dpmi.attacks import Ppa
from dpmi.attacks.priors import StyleGenerator

from .common import CLASSES, LIMITS, SHAPE, apart, attacked, default_draws, in_float64, watching
from .styles import CANDIDATES, CUTOFF, PRIOR, initial_styles, poincare, shown, style_generator

RESTARTS, COUNT, VIEWS, PSI = 2, 2, 8, 0.5
ATTACK = Ppa(
    candidates=CANDIDATES,
    psi=PSI,
    cutoff=CUTOFF,
    restarts=RESTARTS,
    images_per_class=COUNT,
    final_views=VIEWS,
    prior=PRIOR,
)


def published(
    generator: StyleGenerator, model: nn.Module, w: Tensor, labels: Tensor, *, steps: int
) -> list[Tensor]:
    """The styles (rows, size) of each step; the crop is drawn once for a batch."""
    crop = T.RandomResizedCrop(SHAPE[1:], scale=(0.9, 1.0), ratio=(1.0, 1.0), antialias=True)
    w = w.clone().requires_grad_()
    path, optimizer = [w.detach().clone()], torch.optim.Adam([w], lr=0.005, betas=(0.1, 0.1))
    for _ in range(steps):
        loss = poincare(model(crop(shown(generator, w))), labels).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(w.detach().clone())
    # The product looks at its last position once more, to see whether it is finite.
    crop(shown(generator, w))
    return path


def final_selection(
    generator: StyleGenerator, model: nn.Module, w: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The images of most confidence under random transforms, the best first, and the classes; COUNT for each class."""
    transforms = T.Compose(
        [
            T.RandomResizedCrop(size=SHAPE[1:], scale=(0.5, 0.9), ratio=(0.8, 1.2), antialias=True),
            T.RandomHorizontalFlip(0.5),
        ]
    )
    images, score = shown(generator, w), torch.zeros(len(w))
    for _ in range(VIEWS):
        score += model(transforms(images)).softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze()
    score = score / VIEWS
    kept = []
    for label in CLASSES:
        own = (labels == label).nonzero()[:, 0]
        kept.append(own[score[own].sort(descending=True).indices[:COUNT]])
    return images[torch.cat(kept)], labels[torch.cat(kept)]


@pytest.mark.parametrize("steps", LIMITS)
def test_every_style_and_the_final_selection_are_the_published_ones(steps: int) -> None:
    with in_float64(*ATTACK.priors()) as (model, known):
        generator = style_generator(known.modules[0])
        with watching(generator.synthesis) as seen:
            found = attacked(replace(ATTACK, iterations=steps), model, known)
        labels = CLASSES.repeat_interleave(RESTARTS * COUNT)
        start = initial_styles(generator, model, per_class=RESTARTS * COUNT, psi=PSI, mirror=True)
        with default_draws():
            path = published(generator, model, start, labels, steps=steps)
            images, classes = final_selection(generator, model, path[-1], labels)

        candidates, *searched, last = seen.inputs
        searched, expected = torch.stack(searched), torch.stack(path)
        assert len(candidates) == CANDIDATES
        assert (searched == searched[:, :, :1]).all(), "one style for all layers"
        assert apart(searched[:2, :, 0], expected[:2]) <= LIMITS[1]
        assert apart(searched[:, :, 0], expected) <= LIMITS[steps]
        assert apart(last[:, 0], expected[-1]) <= LIMITS[steps]
        assert torch.equal(found.labels, classes)
        assert apart(found.images, images) <= LIMITS[steps]
        assert steps == 1 or (expected[-1] - start).abs().mean() > 0.1
