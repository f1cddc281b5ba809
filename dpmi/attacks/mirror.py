"""MIRROR [S. An et al., "MIRROR: Model Inversion for Deep Learning Network with High Fidelity", NDSS 2022]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import Adam

from .base import Candidates, Task
from .checks import at_least_one, check_rate
from .stages.search import final_images, search
from .stages.selection import confidence
from .stages.styles import StyleBox, Styles, style_generator
from .stages.views import Augmentation, crops
from .style_attack import StyleAttack, seen_by
from .target import Target

#: Shares of the iterations in which the learning rate rises and falls.
RISE, FALL = 0.05, 0.25
#: Share of the area that crops keep: faces are only mirrored; digits are only cropped, because a mirrored digit is
#: another sign.
SCALE_OF_FACES = (1.0, 1.0)
SCALE_OF_DIGITS = (0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Mirror(StyleAttack):
    """Adam on the cross-entropy of G(w), one style w for all layers, restricted to a region of likely styles.

    After each step w is transformed to an approximately normal variable, clipped to one standard deviation around its
    mean and transformed back. Each search keeps its iterate of smallest loss. The attack returns, for each class, the
    searches with the target's highest confidence. The published weight of the cross-entropy, 1 to 10, does not change
    the steps of Adam and is omitted.

    Three details differ from the published code. It truncates styles inside the generator in every step; here only the
    candidates are truncated. It keeps one iterate for the whole batch, that after the step from the smallest loss. Its
    first step has the rate of the second step here, whose first step has rate 0.

    >>> import torch
    >>> from dpmi import models
    >>> from dpmi.attacks.priors import StylePrior
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = Mirror(  # tiny; the defaults take minutes
    ...     iterations=3, candidates=8, restarts=2, augmentation="digits", prior=StylePrior(steps=1, width=2))
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.iterations.tolist()
    (torch.Size([3, 1, 16, 16]), [3, 3, 3])

    Args:
        iterations: number of steps; up to 20,000 in the paper, 500 in later comparisons.
        learning_rate: maximum learning rate of Adam; 0.2 to 0.25 in the paper.
        augmentation: kind of the views on which the target is queried: ``faces`` (mirror images, as in the paper),
            ``digits`` (crops) or ``none``.
        candidates: as in :class:`~dpmi.attacks.style_attack.StyleAttack`, like the following.
        psi: 0.7 in the paper; 1 if the target's classes are not those of the prior's training data.
        cutoff: 8 in the paper.
        restarts: number of best candidates from which the searches for an image start.
        images_per_class: number of images returned for each class.
        prior: the generator.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "mirror"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "probs", "public_data", "generator"})
    loss: ClassVar[str | None] = "cross-entropy"

    candidates: int = 2000
    psi: float = 0.7
    iterations: int = 500
    learning_rate: float = 0.2
    augmentation: Augmentation = "faces"
    restarts: int = 8
    images_per_class: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "iterations")
        check_rate(self.learning_rate)
        crops(self.augmentation, scale=SCALE_OF_FACES)

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        generator = style_generator(task.knowledge.modules[0])
        rows = labels.repeat_interleave(self.searches)
        start = self.starts(target, generator, labels, seed=task.seed)
        position = Styles(generator, start, project=StyleBox(generator, seed=task.seed))
        scale = SCALE_OF_FACES if self.augmentation == "faces" else SCALE_OF_DIGITS
        view = crops(self.augmentation, scale=scale)

        outcome = search(
            target,
            rows,
            position,
            seen_by(target, view),
            Adam(position.parameters(), lr=self.learning_rate),
            iterations=self.iterations,
            progress=task.progress,
            schedule=ramps,
        )
        images = final_images(position, len(rows))
        sure = confidence(target, images, rows)
        return self.choose(images, sure, iterations=outcome.iterations, diverged=outcome.diverged)


def ramps(share: float) -> float:
    """Return the factor of the learning rate at a share of the iterations: a linear rise, a cosine decay at the end.

    >>> ramps(0.0), ramps(0.5), round(ramps(0.875), 6)
    (0.0, 1.0, 0.5)
    """
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - share) / FALL))
    return min(1.0, share / RISE) * fall
