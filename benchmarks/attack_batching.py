"""Throughput of an attack on all ten classes in one batch compared with class by class, on the 26 k MNIST CNN.

``python -m benchmarks.attack_batching`` prints a table. Both variants run in turns in one process, so that other load
on the machine slows both. All iterations take the same time, so the benchmark runs fewer than an attack does. The
networks are untrained, because training does not change their speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from dpmi.attacks import Attack, Enhanced, Gmi, KedMi, Knowledge
from dpmi.models import build

#: Minimum throughput of one batch as a multiple of the throughput class by class.
LIMIT = 5.0
IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10
#: One restart, because five restarts would give class by class a batch of five.
ATTACKS: dict[str, Attack] = {
    "enhanced": Enhanced(iterations=150),
    "gmi": Gmi(iterations=40, restarts=1),
    "ked-mi": KedMi(iterations=40, images_per_class=1),
}


def run(repeats: int = 3) -> dict[str, dict[str, float]]:
    """Return, per attack, both throughputs in class-iterations per second and their ratio (medians)."""
    target = build("cnn", image_shape=IMAGE_SHAPE, num_classes=CLASSES, seed=0)
    return {name: _measure(attack, target, repeats) for name, attack in ATTACKS.items()}


def _measure(attack: Attack, target: nn.Module, repeats: int) -> dict[str, float]:
    modules = (prior.build(IMAGE_SHAPE, CLASSES).eval().requires_grad_(False) for prior in attack.priors())
    knowledge = Knowledge(torch.zeros(0, *IMAGE_SHAPE), tuple(modules))

    def attacked(classes: range | list[int]) -> None:
        attack.run(
            target,
            torch.tensor(list(classes)),
            image_shape=IMAGE_SHAPE,
            generator=torch.Generator(),
            knowledge=knowledge,
        )

    attacked(range(CLASSES))  # warm-up: the first call builds the kernels of its batch size
    attacked([0])
    pairs = [
        (
            _seconds(lambda: [attacked([label]) for label in range(CLASSES)]),
            _seconds(lambda: attacked(range(CLASSES))),
        )
        for _ in range(repeats)
    ]
    work = CLASSES * attack.iterations  # type: ignore[attr-defined]
    return {
        "class by class, 1/s": statistics.median(work / single for single, _ in pairs),
        "one batch, 1/s": statistics.median(work / batch for _, batch in pairs),
        "ratio": statistics.median(single / batch for single, batch in pairs),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> dict[str, dict[str, float]]:
    """Print the table."""
    found = run()
    threads = torch.get_num_threads()
    print(f"class-iterations per second, {CLASSES} classes, MNIST CNN 26 k, both with {threads} threads")
    for name, row in found.items():
        met = "met" if row["ratio"] >= LIMIT else "MISSED"
        shown = "  ".join(f"{key} {value:8.1f}" for key, value in row.items())
        print(f"  {name:10} {shown}  (limit: at least {LIMIT:.0f}: {met})")
    return found


if __name__ == "__main__":
    main()
