"""PLG-MI, side by side with the published loop, ``inversion`` in reconstruct.py, with its random views.

The views are those of kornia, made again of slices, ``interpolate`` and torchvision's ``rotate``. As the docstring of
the views says, brightness comes before contrast.

Modules: dpmi/attacks/plg_mi.py, dpmi/attacks/latent_attack.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, rotate

from dpmi.attacks import PlgMi
from dpmi.attacks.priors import ConditionalGan, Gan

from .common import CLASSES, LIMITS, SIZE, apart, attacked, draws, in_float64, stream, watching

COUNT, RESTARTS, VIEWS, NUMBERS = 1, 2, 2, 9
PRIOR = ConditionalGan(steps=40, batch_size=32, learning_rate=2e-3, width=0.05, latent_size=SIZE)
ATTACK = PlgMi(
    images_per_class=COUNT, restarts=RESTARTS, learning_rate=0.1, augmentation="faces", prior=PRIOR
)


def seen_anew(image: Tensor, numbers: list[float], *, mirror: bool) -> Tensor:
    """One view of an image (1, side, side): a crop of at least 0.8, light and contrast by 0.2, a turn by 5 degrees."""
    area, top, left, light, contrast, _, mirrored, turned, angle = numbers
    side = image.shape[1]
    # A crop that is the whole image is drawn again: the largest is half a pixel smaller.
    pixels = round(side * math.sqrt(0.8 + area * (((side - 0.5) / side) ** 2 - 0.8)))
    y, x = int(top * (side - pixels + 1)), int(left * (side - pixels + 1))
    crop = image[None, :, y : y + pixels, x : x + pixels]
    view = F.interpolate(crop, (side, side), mode="bilinear", align_corners=True)[0]
    view = (view * (0.8 + 0.4 * light)).clamp(0, 1)
    view = (view.mean() + (0.8 + 0.4 * contrast) * (view - view.mean())).clamp(0, 1)
    if mirror and mirrored < 0.5:
        view = hflip(view)
    return rotate(view, 10 * angle - 5, InterpolationMode.BILINEAR) if turned < 0.5 else view


def max_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_margin_loss of the published losses.py: of the two largest logits, the one that is not of the class."""
    values, classes = logits.topk(2, dim=1)
    other = torch.where(classes[:, 0] == labels, values[:, 1], values[:, 0])
    return (other - logits.gather(1, labels[:, None])[:, 0]).mean()


def published(
    gan: Gan,
    model: nn.Module,
    z: Tensor,
    labels: Tensor,
    views: Callable[[Tensor], list[Tensor]],
    *,
    steps: int,
) -> list[Tensor]:
    """The latents (rows, d) of each step.

    Args:
        gan: G is conditional.
        model: the target.
        z: the start.
        labels: the class of each row.
        views: returns two random views of each image.
        steps: number of steps.
    """
    z = z.clone().requires_grad_()
    path, optimizer = [z.detach().clone()], torch.optim.Adam([z], lr=0.1)
    for _ in range(steps):
        first, second = views(gan.generator(z, labels))
        loss = max_margin(model(first), labels) + max_margin(model(second), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        path.append(z.detach().clone())
    return path


@pytest.mark.parametrize("steps", LIMITS)
def test_every_position_is_the_published_one(steps: int) -> None:
    candidates = COUNT * RESTARTS
    with in_float64(*ATTACK.priors()) as (model, known):
        (gan,) = known.modules
        assert isinstance(gan, Gan)
        with watching(gan.generator) as seen:
            found = attacked(replace(ATTACK, iterations=steps), model, known)

        rows = [(label, number) for label in CLASSES.tolist() for number in range(candidates)]
        start = torch.stack([torch.randn(SIZE, generator=stream(*row)) for row in rows])
        labels = torch.tensor([label for label, _ in rows])
        # The streams of the views have the numbers after those of the starts.
        numbers = [draws(label, candidates + number, VIEWS * NUMBERS, uniform=True) for label, number in rows]

        def views(images: Tensor) -> list[Tensor]:
            own = [draw().view(VIEWS, NUMBERS).tolist() for draw in numbers]
            return [
                torch.stack(
                    [
                        seen_anew(image, drawn[view], mirror=True)
                        for image, drawn in zip(images, own, strict=True)
                    ]
                )
                for view in range(VIEWS)
            ]

        path = published(gan, model, start, labels, views, steps=steps)
        *searched, last = seen.inputs
        searched, expected = torch.stack(searched), torch.stack(path)
        assert apart(searched[:2], expected[:2]) <= LIMITS[1]
        assert apart(searched, expected) <= LIMITS[steps]
        assert apart(last, expected[-1]) <= LIMITS[steps]
        images = gan.generator(expected[-1], labels)
        sure = model(images).softmax(dim=1).gather(1, labels[:, None]).view(-1, RESTARTS)
        best = sure.argmax(dim=1) + RESTARTS * torch.arange(len(sure))
        assert apart(found.images, images[best]) <= LIMITS[steps]
        assert steps == 1 or (expected[-1] - start).abs().mean() > 0.5
