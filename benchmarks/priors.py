"""Training time of the priors of the attacks, each with its default settings, on digits of 32 x 32.

``python -m benchmarks.priors`` prints a table. The training time is the number of steps times the time of a step, which
does not depend on the content of the images. The benchmark times a few steps after a warm-up, all priors in turns, and
takes the fastest turn. A prior that distils the target queries it for every public image before its first step; these
queries are timed separately.
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

#: Maximum training time of a prior in minutes, on two cores.
LIMIT = 10.0
IMAGE_SHAPE, CLASSES = (1, 32, 32), 5
#: Number of public images: the digits 5 to 9 of MNIST.
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
        """Time of the whole training."""
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
    """A function that trains one prior for some steps; every call continues the training."""
    module = prior.build(IMAGE_SHAPE, CLASSES).train()
    with seeded(module, 0):
        trainer = prior.trainer(module, public, target)

    def take() -> None:
        with seeded(module, 0):
            for _ in range(STEPS):
                trainer.step()

    return take


def _fastest(works: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of each function; the first turn is a warm-up that builds the kernels of its batch sizes."""
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
        f"training of priors with their defaults, 32 x 32, {torch.get_num_threads()} threads; (at most {LIMIT:.0f} min)"
    )
    found = run()
    for m in found:
        asking = f", plus {m.asking_seconds:.0f} s of queries to the target" if m.asking_seconds else ""
        print(
            f"  {m.name:16}{m.minutes:6.1f} min   {m.steps} steps of {1000 * m.step_seconds:.0f} ms{asking}"
        )
    return found


if __name__ == "__main__":
    main()
