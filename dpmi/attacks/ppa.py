"""PPA [L. Struppek et al., "Plug & Play Attacks", ICML 2022]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Candidates, Task
from .checks import at_least_one, check_rate
from .stages.search import final_images, search
from .stages.selection import confidence
from .stages.styles import Styles, style_generator
from .stages.views import Augmentation, crops
from .style_attack import StyleAttack, adam, seen_by
from .target import Target

#: Share of the area that the random crops of the search keep; and the share and the aspect ratio of the crops of the
#: final selection.
SCALE = (0.9, 1.0)
FINAL_SCALE = (0.5, 0.9)
FINAL_RATIO = (0.8, 1.2)
#: Larger, because half a digit may be another digit.
FINAL_SCALE_OF_DIGITS = (0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Ppa(StyleAttack):
    """Adam on the Poincare loss of random crops of G(w), one style w for all layers [section 4].

    The attack returns, for each class, the reconstructions with the target's highest mean confidence over random crops
    and mirror images. Suitable values for the small generator for digits: 500 candidates, psi 1, learning rate 0.02,
    2 restarts and 10 final views.

    >>> import torch
    >>> from dpmi import models
    >>> from dpmi.attacks.priors import StylePrior
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = Ppa(  # tiny; the defaults take minutes
    ...     iterations=3, candidates=8, restarts=1, images_per_class=2, final_views=2, augmentation="digits",
    ...     prior=StylePrior(steps=1, width=2))
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.labels.tolist()
    (torch.Size([6, 1, 16, 16]), [0, 0, 1, 1, 2, 2])

    Args:
        iterations: number of steps; 50 to 70 in the paper.
        learning_rate: learning rate of Adam with betas (0.1, 0.1).
        augmentation: kind of the views on which the target is queried: ``faces`` (crops and mirror images, as in the
            paper), ``digits`` (crops of more than half a digit) or ``none``.
        final_views: random views of each reconstruction in the final selection.
        candidates: 2000 to 5000 in the paper.
        psi: 0.5 in the paper; 1 if the target's classes are not those of the prior's training data.
        cutoff: as in :class:`~dpmi.attacks.style_attack.StyleAttack`, like the following.
        restarts: the paper searches from 200 starts and keeps 50 reconstructions.
        images_per_class: 50 in the paper.
        prior: the generator.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "ppa"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "logits", "public_data", "generator"})
    loss: ClassVar[str | None] = "poincare"

    candidates: int = 5000
    psi: float = 0.5
    iterations: int = 70
    learning_rate: float = 0.005
    augmentation: Augmentation = "faces"
    final_views: int = 100
    restarts: int = 4
    images_per_class: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "iterations", "final_views")
        check_rate(self.learning_rate)
        crops(self.augmentation, scale=SCALE)

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        generator = style_generator(task.knowledge.modules[0])
        rows = labels.repeat_interleave(self.searches)
        mirror = self.augmentation == "faces"
        position = Styles(generator, self.starts(target, generator, labels, seed=task.seed, mirror=mirror))
        view = crops(self.augmentation, scale=SCALE, mirror=False)

        outcome = search(
            target,
            rows,
            position,
            seen_by(target, view),
            adam(position.parameters(), self.learning_rate),
            iterations=self.iterations,
            progress=task.progress,
            keep_last=True,
        )
        images = final_images(position, len(rows))
        scale = FINAL_SCALE_OF_DIGITS if self.augmentation == "digits" else FINAL_SCALE
        final_view = crops(self.augmentation, scale=scale, ratio=FINAL_RATIO)
        sure = confidence(target, images, rows, transform=final_view, draws=self.final_views)
        return self.choose(images, sure, iterations=outcome.iterations, diverged=outcome.diverged)
