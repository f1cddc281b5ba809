"""IF-GMI, side by side with the published Optimization.optimize and ``intermediate``, block by block.

What differs on purpose is in the docstring of the attack: the images of a search are those after its last step, and
of all searches the one of most confidence is returned.

Modules: dpmi/attacks/if_gmi.py, dpmi/attacks/stages/features.py, dpmi/attacks/style_attack.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms as T

from dpmi.attacks import IfGmi
from dpmi.attacks.priors import StyleGenerator
from dpmi.attacks.priors.style.network import Features

from .common import CLASSES, LIMITS, SHAPE, apart, attacked, default_draws, in_float64, watching
from .styles import CANDIDATES, CUTOFF, PRIOR, initial_styles, poincare, style_generator

RESTARTS, PSI, RATE, RADIUS, BLOCKS = 2, 0.5, 0.02, 2.0, 2
ATTACK = IfGmi(
    candidates=CANDIDATES,
    psi=PSI,
    cutoff=CUTOFF,
    restarts=RESTARTS,
    images_per_class=1,
    blocks=BLOCKS,
    radius=RADIUS,
    learning_rate=RATE,
    prior=PRIOR,
)


def through(
    generator: StyleGenerator, w: Tensor, block: int, hidden: Tensor | None, *, only: bool = False
) -> tuple[Tensor, Tensor]:
    """SynthesisNetwork.forward from a block: the features after the last, and the image, which begins empty."""
    x, image = hidden, None
    for number, name in list(enumerate(generator.synthesis.blocks))[block : block + 1 if only else None]:
        styles = w.unsqueeze(1).repeat_interleave(2 if number == 0 else 3, dim=1)
        x, image = generator.synthesis.get_submodule(name)(Features(x, image), styles)
    return x, (image / 2 + 0.5).clamp(0, 1)  # type: ignore[return-value, operator]


def onto_ball(offset: Tensor, radius: float) -> Tensor:
    """The nearest point of an L1 ball: every entry is shrunk by the same amount, which halving an interval finds."""
    sizes = offset.flatten(1).abs()
    low, high = torch.zeros(len(sizes), 1), sizes.max(dim=1, keepdim=True).values
    for _ in range(60):
        middle = (low + high) / 2
        outside = (sizes - middle).relu().sum(dim=1, keepdim=True) > radius
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    # For a point inside the ball the interval ends at 0.
    return ((sizes - high).relu() * offset.flatten(1).sign()).view_as(offset)


def published(
    generator: StyleGenerator, model: nn.Module, w: Tensor, labels: Tensor, *, steps: list[int]
) -> tuple[list[list[Tensor]], list[Tensor], bool]:
    """Styles and features of each step of all searches, in turn; the images of each search; whether a ball was left."""
    crop = T.RandomResizedCrop(SHAPE[1:], scale=(0.9, 1.0), ratio=(1.0, 1.0), antialias=True)
    path, images, hidden, left = [], [], None, False
    for block, count in enumerate(steps):
        radius = RADIUS * (block + 1)
        moved = [w.clone().requires_grad_()] + ([] if hidden is None else [hidden.clone().requires_grad_()])
        starts = [one.detach().clone() for one in moved]
        optimizer = torch.optim.Adam(moved, lr=RATE, betas=(0.1, 0.1))

        def shown(
            block: int = block, moved: list[Tensor] = moved, *, only: bool = False
        ) -> tuple[Tensor, Tensor]:
            return through(generator, moved[0], block, moved[1] if block else None, only=only)

        path.append([one.detach().clone() for one in moved])
        for _ in range(count):
            loss = poincare(model(crop(shown()[1])), labels).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for one, start in zip(moved, starts, strict=True):
                left |= bool(((one - start).flatten(1).abs().sum(dim=1) > radius).any())
                one.data = start + onto_ball(one.data - start, radius)
            path.append([one.detach().clone() for one in moved])
        with torch.no_grad():
            # The product looks at its last position once more, to see whether it is finite.
            crop(shown()[1])
            images.append(shown()[1])
            w, hidden = moved[0].detach(), shown(only=True)[0]
    return path, images, left


@pytest.mark.parametrize("steps", [[1, 1, 1], [100, 100, 100]], ids=["1", "300"])
def test_every_style_and_feature_is_the_published_one(steps: list[int]) -> None:
    limit = LIMITS[1] if steps[0] == 1 else LIMITS[300]
    with in_float64(*ATTACK.priors()) as (model, known):
        generator = style_generator(known.modules[0])
        assert len(generator.synthesis.blocks) == BLOCKS + 1
        with watching(generator.synthesis) as seen:
            attack = replace(ATTACK, iterations=steps[0], block_iterations=steps[1])
            found = attacked(attack, model, known)
        labels = CLASSES.repeat_interleave(RESTARTS)
        start = initial_styles(generator, model, per_class=RESTARTS, psi=PSI, mirror=True)
        with default_draws():
            path, images, left = published(generator, model, start, labels, steps=steps)
        assert left, "the balls hold the search back"

        calls = iter(list(zip(seen.inputs, seen.blocks, seen.hidden, strict=True))[1:])
        position, worst = iter(path), 0.0
        for block, count in enumerate(steps):
            for _ in range(count + 1):
                expected, (styles, name, hidden) = next(position), next(calls)
                assert name == generator.synthesis.blocks[block]
                worst = max(worst, apart(styles[:, 0], expected[0]))
                if block > 0:
                    worst = max(worst, apart(hidden, expected[1]))
            # The images of the last position, and the features that enter the next block.
            for _ in range(2 if block < BLOCKS else 1):
                worst = max(worst, apart(next(calls)[0][:, 0], expected[0]))
        assert worst <= limit
        assert not list(calls)

        sure = torch.stack([model(one).softmax(dim=1).gather(1, labels[:, None])[:, 0] for one in images])
        of_search = sure.argmax(dim=0)
        chosen = torch.stack(images)[of_search, range(len(labels))]
        best = sure.max(dim=0).values.view(-1, RESTARTS).argmax(dim=1) + RESTARTS * torch.arange(len(CLASSES))
        assert apart(found.images, chosen[best]) <= limit
        assert found.iterations.tolist() == [sum(steps[: of_search[row] + 1]) for row in best.tolist()]
