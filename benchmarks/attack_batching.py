"""The enhanced attack on all ten classes at once against class by class, on the 26 k MNIST CNN.

``python -m benchmarks.attack_batching`` prints a table. The two are measured in turn in one process, so that
what else the machine does slows both; the iterations are fewer than an attack's, for every one of them costs
the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from dpmi.attacks import Enhanced
from dpmi.models import build

#: All classes in one batch must be at least this many times as fast as class by class.
LIMIT = 4.0
IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10
ITERATIONS = 150


def run(repeats: int = 3) -> dict[str, float]:
    """Return how many times as fast one batch is (median), and the seconds of 5,000 iterations."""
    target = build("cnn", image_shape=IMAGE_SHAPE, num_classes=CLASSES, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _attack(target, range(CLASSES))  # the first call builds the kernels of its batch size
        _attack(target, [0])
        pairs = [
            (
                _seconds(lambda: [_attack(target, [label]) for label in range(CLASSES)]),
                _seconds(lambda: _attack(target, range(CLASSES))),
            )
            for _ in range(repeats)
        ]
    finally:
        torch.set_num_threads(threads)
    scale = Enhanced().iterations / ITERATIONS
    return {
        "class by class / one batch": statistics.median(single / batch for single, batch in pairs),
        "class by class, s": scale * statistics.median(single for single, _ in pairs),
        "one batch, s": scale * statistics.median(batch for _, batch in pairs),
    }


def _attack(target: nn.Module, classes: range | list[int]) -> None:
    Enhanced(iterations=ITERATIONS).run(
        target, torch.tensor(list(classes)), image_shape=IMAGE_SHAPE, generator=torch.Generator()
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> dict[str, float]:
    """Print the table."""
    found = run()
    print(
        f"enhanced attack, {CLASSES} classes, MNIST CNN 26 k, one thread, {Enhanced().iterations} iterations"
    )
    for name, value in found.items():
        print(f"  {name:28} {value:7.1f}")
    met = "met" if found["class by class / one batch"] >= LIMIT else "MISSED"
    print(f"  limit: at least {LIMIT:.0f} times as fast: {met}")
    return found


if __name__ == "__main__":
    main()
