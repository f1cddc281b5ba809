"""A random walk: an attack that uses only the target's confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dpmi.attacks import Attack, Candidates, Target, Task, child_generator, require


@dataclass(frozen=True, kw_only=True)
class RandomWalk(Attack):
    """Adds noise to the image of a class, and keeps the result if the target's confidence grows.

    Args:
        iterations: queries per class, at least 1.
        step_size: standard deviation of the noise in a pixel, above 0.
    """

    name: ClassVar[str] = "random-walk"
    requires: ClassVar[frozenset[str]] = frozenset({"probs"})

    iterations: int = 1000
    step_size: float = 0.2

    def __post_init__(self) -> None:
        require("iterations", self.iterations, self.iterations >= 1, "at least 1")
        require("step_size", self.step_size, self.step_size > 0, "above 0")

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        # One generator for each class, so that a class does not depend on the other classes.
        generators = [child_generator(task.seed, label, 0) for label in labels.tolist()]
        best = torch.full((len(labels), *task.image_shape), 0.5, device=labels.device)
        confidence = target.confidence(best, labels)
        used = torch.zeros_like(labels)
        for done in range(1, self.iterations + 1):
            if not target.affords(queries=len(labels)):
                break
            noise = torch.stack([torch.randn(task.image_shape, generator=own) for own in generators])
            tried = (best + self.step_size * noise.to(best)).clamp(0, 1)
            found = target.confidence(tried, labels)
            better = found > confidence
            best[better], confidence[better], used[better] = tried[better], found[better], done
            task.progress(done, self.iterations)
        return Candidates(images=best, iterations=used, diverged=torch.zeros_like(labels, dtype=torch.bool))
