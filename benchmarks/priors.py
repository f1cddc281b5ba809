"""How long the priors of the attacks take to train, each with its default settings, on digits of 32 x 32.

``python -m benchmarks.priors`` prints a table. A training is its number of steps times what one of them takes, which
does not depend on what the images show: some are timed after a few others, all priors in turns, and the fastest turn
counts. Before its first step, a prior that distils the target asks it about every public image, which is timed apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dpmi.attacks.priors import ConditionalGan, InversionGan, StylePrior, Surrogates, WganGP
from dpmi.attacks.priors.training import BatchPrior
from dpmi.attacks.target import Target
from dpmi.models import build, seeded

#: Minutes that any of them may take on two cores.
LIMIT = 10.0
IMAGE_SHAPE, CLASSES = (1, 32, 32), 5
#: The digits 5 to 9 of MNIST, which the target is asked about.
PUBLIC = 34_265
PRIORS: tuple[BatchPrior, ...] = (WganGP(), InversionGan(), ConditionalGan(), StylePrior(), Surrogates())
TURNS, STEPS = 3, 16


@dataclass(frozen=True)
class Measured:
    """One prior."""

    name: str
    steps: int
    step_seconds: float
    asking_seconds: float

    @property
    def minutes(self) -> float:
        """Of the whole training."""
        return (self.steps * self.step_seconds + self.asking_seconds) / 60


def run() -> list[Measured]:
    """Measure every prior."""
    public = torch.rand(2_000, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    target = Target(
        build("mcnn", image_shape=IMAGE_SHAPE, num_classes=CLASSES, seed=0).eval().requires_grad_(False)
    )
    with torch.no_grad():
        target.logits(public[:256])
        asking = PUBLIC / 256 * _fastest([lambda: target.logits(public[:256])])[0]
    trainings = [_steps(prior, public, target) for prior in PRIORS]
    seconds = _fastest(trainings)
    return [
        Measured(prior.name, prior.steps, of_steps / STEPS, asking * prior.distils)
        for prior, of_steps in zip(PRIORS, seconds, strict=True)
    ]


def _steps(prior: BatchPrior, public: torch.Tensor, target: Target) -> Callable[[], None]:
    """Some steps of the training of one prior, which goes on from call to call."""
    module = prior.build(IMAGE_SHAPE, CLASSES).train()
    with seeded(module, 0):
        trainer = prior.trainer(module, public, target)

    def take() -> None:
        with seeded(module, 0):
            for _ in range(STEPS):
                trainer.step()

    return take


def _fastest(works: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of each, after a first turn that is not counted: the kernels of its batch sizes are built in it."""
    best = [float("inf")] * len(works)
    for turn in range(TURNS + 1):
        for i, work in enumerate(works):
            started = time.perf_counter()
            work()
            if turn:
                best[i] = min(best[i], time.perf_counter() - started)
    return best


def main() -> list[Measured]:
    """Print the table."""
    print(
        f"priors with their defaults, 32 x 32, {torch.get_num_threads()} threads; (at most {LIMIT:.0f} min)"
    )
    found = run()
    for m in found:
        asking = f", and {m.asking_seconds:.0f} s to ask the target first" if m.asking_seconds else ""
        print(
            f"  {m.name:16}{m.minutes:6.1f} min   {m.steps} steps of {1000 * m.step_seconds:.0f} ms{asking}"
        )
    return found


if __name__ == "__main__":
    main()
