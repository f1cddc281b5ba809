"""Time of an update with each defence compared with plain training, on MCNN with batches of 64.

``python -m benchmarks.defenses`` prints a table. All trainings run in turns in one process. The times exclude one-off
work: the first updates, the search for latents, and the public pretraining of ``transfer``.
"""

from __future__ import annotations

import statistics
import time

import torch

from dpmi.data import ImageSet
from dpmi.defenses import Defense, Recipe, get, train
from dpmi.models import build

IMAGE_SHAPE = (1, 32, 32)
CLASSES = 5
BATCH_SIZE = 64
STEPS = 24
WARM = 4
#: Name, settings, and maximum time of an update as a multiple of a plain update.
DEFENSES: tuple[tuple[str, dict[str, object], float], ...] = (
    ("mid", {"beta": 0.2}, 1.1),
    ("label-smoothing", {"alpha": -0.05}, 1.1),
    ("calor", {"rank": 30}, 1.1),
    # The first two of the four layers with weights.
    ("transfer", {"frozen_through": "layer2", "pretrain_steps": 1}, 0.8),
    ("bido-hsic", {}, 1.5),
    ("bido-coco", {}, 1.5),
)


def run(repeats: int = 5) -> dict[str, float]:
    """Return the time of an update / the time of a plain update, median over turns."""
    defenses = {"none": get("none")()} | {name: get(name)(**settings) for name, settings, _ in DEFENSES}
    seconds: dict[str, list[float]] = {name: [] for name in defenses}
    for turn in range(repeats + 1):
        for name, defense in defenses.items():
            taken = _update_seconds(defense)
            if turn:  # the first turn is a warm-up that builds the kernels of this batch size
                seconds[name].append(taken)
    return {
        name: statistics.median(ours / plain for ours, plain in zip(times, seconds["none"], strict=True))
        for name, times in seconds.items()
    }


def _update_seconds(defense: Defense) -> float:
    """Median time between two updates of the private training."""
    at: list[float] = []

    def progress(done: int, total: int) -> None:
        if done <= 1:  # discards the updates on public images
            at.clear()
        at.append(time.perf_counter())

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH_SIZE * STEPS, *IMAGE_SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    model = build("mcnn", image_shape=IMAGE_SHAPE, num_classes=CLASSES, seed=0)
    records = ImageSet(images, labels)
    recipe = Recipe(steps=STEPS, learning_rate=1e-3, batch_size=BATCH_SIZE)
    train(defense, model, records, recipe, seed=0, public=records, progress=progress)
    return statistics.median(
        after - before for before, after in zip(at[WARM:-1], at[WARM + 1 :], strict=True)
    )


def main() -> dict[str, float]:
    """Print the table."""
    found = run()
    print(f"time of an update with a defence / of a plain update, MCNN, batch {BATCH_SIZE}")
    for name, _, limit in DEFENSES:
        met = "met" if found[name] <= limit else "MISSED"
        print(f"  {name:18} {found[name]:5.2f}   limit {limit}: {met}")
    return found


if __name__ == "__main__":
    main()
