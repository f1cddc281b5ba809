"""IF-GMI [Y. Qiu et al., "A Closer Look at GAN Priors: Exploiting Intermediate Features", ECCV 2024]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from dpmi.progress import Progress

from .base import Candidates, Task
from .checks import at_least_one, check_rate, require
from .ppa import SCALE
from .stages.features import LayerFeatures
from .stages.search import final_images, search
from .stages.selection import confidence
from .stages.styles import style_generator
from .stages.views import Augmentation, crops
from .style_attack import StyleAttack, adam
from .target import Target

#: Radii of the searches as multiples of the first, as published; further searches have the last.
RADII = (1, 2, 3, 4, 5, 6, 8, 8)


@dataclass(frozen=True, kw_only=True)
class IfGmi(StyleAttack):
    """PPA's search over a style, followed by searches over the input features of the synthesis blocks, block by block.

    The search at a block moves its input features and the style, each within an L1 ball around its starting point. Its
    images lack the RGB outputs of the earlier blocks, as in the published code. Among the images after all searches,
    the attack returns those with the target's highest confidence; the published code records the images before the last
    step of each search, and reports the best block by an evaluator. Suitable values for the small generator for digits:
    500 candidates, psi 1, learning rate 0.02 and radius 50.

    >>> import torch
    >>> from dpmi import models
    >>> from dpmi.attacks.priors import StylePrior
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = IfGmi(  # tiny; the defaults take minutes
    ...     iterations=2, block_iterations=1, blocks=1, candidates=8, images_per_class=2, augmentation="digits",
    ...     prior=StylePrior(steps=1, width=2))
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.labels.tolist()
    (torch.Size([6, 1, 16, 16]), [0, 0, 1, 1, 2, 2])

    Args:
        iterations: steps of the search over the style; 70 for CelebA, 50 for FaceScrub.
        block_iterations: steps at each block; 25 for CelebA, 10 for FaceScrub.
        blocks: number of blocks after the first that are searched, all of them if there are fewer; 4 for CelebA from
            FFHQ, 7 for CelebA from MetFaces and for FaceScrub.
        radius: radius of the L1 ball of the first search; those of the following searches are 2, 3, 4, 5, 6, 8 and 8
            times as large.
        learning_rate: learning rate of Adam with betas (0.1, 0.1).
        augmentation: kind of the views on which the target is queried: ``faces`` (random crops, and mirror images in
            the selection of the starts), ``digits`` (random crops) or ``none``.
        candidates: as in :class:`~dpmi.attacks.style_attack.StyleAttack`, like the following.
        psi: 0.5 as in PPA; 1 if the target's classes are not those of the prior's training data.
        cutoff: 8 as in PPA.
        restarts: searches per image.
        images_per_class: 50 in the paper.
        prior: the generator.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "if-gmi"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "logits", "public_data", "generator"})
    loss: ClassVar[str | None] = "poincare"

    candidates: int = 5000
    psi: float = 0.5
    iterations: int = 70
    block_iterations: int = 25
    blocks: int = 4
    radius: float = 1000.0
    learning_rate: float = 0.005
    augmentation: Augmentation = "faces"
    restarts: int = 1
    images_per_class: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "iterations", "block_iterations", "blocks")
        require("radius", self.radius, 0 < self.radius < float("inf"), "above 0 and finite")
        check_rate(self.learning_rate)
        crops(self.augmentation, scale=SCALE)

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        generator = style_generator(task.knowledge.modules[0])
        rows = labels.repeat_interleave(self.searches)
        mirror = self.augmentation == "faces"
        start = self.starts(target, generator, labels, seed=task.seed, mirror=mirror)
        position = LayerFeatures(generator, start, radius=self.radius)
        count = min(self.blocks, len(generator.synthesis.blocks) - 1)
        stages = [self.iterations] + [self.block_iterations] * count
        view = crops(self.augmentation, scale=SCALE, mirror=False)

        def cost(images: Tensor, labels: Tensor) -> Tensor:
            return target.identity(view(images), labels)

        sure = torch.full((len(rows),), -1.0, device=labels.device)
        images = torch.zeros(len(rows), *task.image_shape, device=labels.device)
        taken, used = torch.zeros_like(rows), torch.zeros_like(rows)
        diverged = torch.zeros_like(rows, dtype=torch.bool)
        for number, steps in enumerate(stages):
            if number > 0:
                position = position.at_next_block(radius=self.radius * RADII[min(number, len(RADII) - 1)])
            outcome = search(
                target,
                rows,
                position,
                cost,
                adam(position.parameters(), self.learning_rate),
                iterations=steps,
                progress=partial(_within, task.progress, sum(stages[:number]), sum(stages)),
                keep_last=True,
            )
            taken += outcome.iterations
            diverged |= outcome.diverged
            found = final_images(position, len(rows))
            of_found = confidence(target, found, rows)
            better = of_found > sure
            sure[better], images[better], used[better] = of_found[better], found[better], taken[better]
        return self.choose(images, sure, iterations=used, diverged=diverged)


def _within(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    """Report the progress of one search as a share of all searches."""
    progress(before + done, total)
