"""The black-box form of MIRROR [S. An et al., NDSS 2022]: a genetic search that queries probabilities only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Candidates, Task
from .checks import at_least_one, require
from .priors import StyleGenerator
from .stages.search import physical
from .stages.selection import best_rows, confidence
from .stages.starts import child_generator
from .stages.styles import StyleBox, style_generator
from .style_attack import StyleAttack
from .target import Target


@dataclass(frozen=True, kw_only=True)
class MirrorGenetic(StyleAttack):
    """A genetic search over styles, restricted to a region of likely styles.

    The fitness of a style is the target's confidence p_y. Two parents are drawn in proportion to their fitness. A child
    takes each entry from one of them, from the first with probability p / (p + p'). Entries mutate by Gaussian steps
    and are clipped to the box of :class:`~dpmi.attacks.mirror.Mirror`. The fittest styles of a generation pass
    unchanged, so the best style is never lost. The default values are not from the paper.

    >>> from dpmi import models
    >>> from dpmi.attacks.priors import StylePrior
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> attack = MirrorGenetic(  # tiny; the defaults take minutes
    ...     generations=2, survivors=2, candidates=8, restarts=4, prior=StylePrior(steps=1, width=2))
    >>> knowledge = attack.fit(target, public=torch.rand(20, 1, 16, 16), image_shape=(1, 16, 16))
    >>> seed = torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 16, 16), generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.grad_calls
    (torch.Size([3, 1, 16, 16]), 0)

    Args:
        generations: number of generations after the first.
        survivors: number of styles of a generation that pass unchanged.
        mutation: probability that an entry mutates.
        step: standard deviation of a mutation, in standard deviations of the entry.
        candidates: as in :class:`~dpmi.attacks.style_attack.StyleAttack`, like the following.
        psi: 0.7, as for Mirror.
        cutoff: 8, as for Mirror.
        restarts: number of styles in a generation, for each image.
        images_per_class: number of fittest images returned for each class.
        prior: the generator.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "mirror-genetic"
    requires: ClassVar[frozenset[str]] = frozenset({"probs", "public_data", "generator"})

    candidates: int = 2000
    psi: float = 0.7
    generations: int = 100
    survivors: int = 8
    mutation: float = 0.1
    step: float = 0.5
    restarts: int = 40
    images_per_class: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "generations")
        limit = f"at least 1 and below the {self.searches} of a generation"
        require("survivors", self.survivors, 1 <= self.survivors < self.searches, limit)
        require("mutation", self.mutation, 0 <= self.mutation <= 1, "in [0, 1]")
        require("step", self.step, 0 < self.step < float("inf"), "above 0 and finite")

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        generator = style_generator(task.knowledge.modules[0])
        rows = labels.repeat_interleave(self.searches)
        box = StyleBox(generator, seed=task.seed)
        styles = box(self.starts(target, generator, labels, seed=task.seed))
        fitness = confidence(target, _images(generator, styles), rows)
        drawn = [child_generator(task.seed, label, 0) for label in labels.tolist()]
        born = torch.zeros_like(rows)
        done = 0
        while done < self.generations and target.affords(queries=len(rows)):
            task.progress(done, self.generations)
            done += 1
            fittest = best_rows(-fitness, candidates=self.searches, keep=self.searches)
            styles, fitness, born = styles[fittest], fitness[fittest], born[fittest]
            classes = zip(
                styles.view(len(labels), self.searches, -1),
                fitness.view(len(labels), -1),
                drawn,
                strict=True,
            )
            styles = torch.cat([self._next(box, *of_class) for of_class in classes])
            born.view(len(labels), -1)[:, self.survivors :] = done
            fitness = confidence(target, _images(generator, styles), rows)
        task.progress(self.generations, self.generations)
        return self.choose(
            _images(generator, styles),
            fitness,
            iterations=born,
            diverged=torch.zeros_like(born, dtype=torch.bool),
        )

    def _next(self, box: StyleBox, styles: Tensor, fitness: Tensor, drawn: torch.Generator) -> Tensor:
        """Return the next generation (n, style_size) of one class, given the current one with the fittest first."""
        count, size = len(styles) - self.survivors, styles.shape[1]
        # On the CPU, whose generator is reproducible; the minimum keeps every weight positive.
        weights = fitness.cpu().clamp_min(torch.finfo(fitness.dtype).tiny)
        mother, father = torch.multinomial(weights, 2 * count, replacement=True, generator=drawn).view(2, -1)
        share = weights[mother] / (weights[mother] + weights[father])
        of_mother = torch.rand(count, size, generator=drawn) < share[:, None]
        mutates = torch.rand(count, size, generator=drawn) < self.mutation
        steps = self.step * mutates * torch.randn(count, size, generator=drawn)
        children = torch.where(of_mother.to(styles.device), styles[mother], styles[father])
        moved = box.style(box.normal(children) + steps.to(styles.device) * box.std)
        return torch.cat([styles[: self.survivors], box(moved)])


def _images(generator: StyleGenerator, styles: Tensor) -> Tensor:
    with torch.no_grad():
        made = [generator.images(generator.repeat(styles[some])) for some in physical(len(styles))]
    return torch.cat(made)
