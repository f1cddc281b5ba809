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
from .style_attack import StyleAttack
from .target import Target

#: Shares of the iterations in which the learning rate rises, and falls.
RISE, FALL = 0.05, 0.25
#: Share of the area that crops keep: faces are mirrored and no more, digits cannot be.
SCALE_OF_FACES = (1.0, 1.0)
SCALE_OF_DIGITS = (0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Mirror(StyleAttack):
    """Adam on the cross-entropy of G(w), one style w for all layers, kept where styles are likely.

    After each step w is made normal, clipped to one standard deviation around its mean and mapped back. The iterate
    of smallest loss is kept, and of the searches of a class those of which the target is surest. The published weight
    of the cross-entropy, 1 to 10, does not change what Adam does and is left out.

    Args:
        iterations: steps; up to 20,000 in the paper, 500 in later comparisons.
        learning_rate: of Adam at its height; 0.2 to 0.25 in the paper.
        augmentation: views that the target is asked about: of ``faces`` mirror images, as in the paper; of ``digits``,
            whose mirror images are other signs, crops; ``none``.
        candidates: as in :class:`~dpmi.attacks.style_attack.StyleAttack`, as are the following.
        psi: 0.7 in the paper; 1 where the classes are not those that the prior was trained on.
        cutoff: 8 in the paper.
        restarts: best candidates to start from, for each image.
        images_per_class: images to return for each class.
        prior: the generator.

    Raises:
        ValueError: a value outside its range.
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

        def cost(images: Tensor, labels: Tensor) -> Tensor:
            return target.identity(view(images), labels)

        outcome = search(
            target,
            rows,
            position,
            cost,
            Adam(position.parameters(), lr=self.learning_rate),
            iterations=self.iterations,
            progress=task.progress,
            schedule=ramps,
        )
        images = final_images(position, len(rows))
        sure = confidence(target, images, rows)
        return self.choose(images, sure, iterations=outcome.iterations, diverged=outcome.diverged)


def ramps(share: float) -> float:
    """Return the factor of the learning rate at a share of the iterations: a linear rise, and a cosine at the end.

    >>> ramps(0.0), ramps(0.5), round(ramps(0.875), 6)
    (0.0, 1.0, 0.5)
    """
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - share) / FALL))
    return min(1.0, share / RISE) * fall
