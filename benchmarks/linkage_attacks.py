"""Seconds of wiener and label-mean on 100 classes at 64 x 64, with real public faces.

``python -m benchmarks.linkage_attacks`` prints a table. The target is a CNN for faces with random weights, because
training does not change its speed. The attacks run in turns, and each line has the median and the range.
"""

from __future__ import annotations

import statistics
import time

import torch

from dpmi import data
from dpmi.attacks import Attack, Knowledge, LabelMean, Wiener
from dpmi.models import build

LIMIT = 2.0
"""Most seconds."""
CLASSES, SIDE = 100, 64
ATTACKS: dict[str, Attack] = {"wiener": Wiener(), "label-mean": LabelMean()}


def run(repeats: int = 5) -> dict[str, float]:
    """Print the table; return the median seconds of each attack."""
    split = data.load("att-faces", size=SIDE)
    target = build("cnn-faces", image_shape=split.image_shape, num_classes=CLASSES, seed=0).eval()
    knowledge = Knowledge(split.public, labels=split.public_labels)
    seconds: dict[str, list[float]] = {name: [] for name in ATTACKS}
    for _ in range(repeats):
        for name, attack in ATTACKS.items():
            start = time.perf_counter()
            attack.run(
                target,
                torch.arange(CLASSES),
                image_shape=split.image_shape,
                generator=torch.Generator(),
                knowledge=knowledge,
            )
            seconds[name].append(time.perf_counter() - start)
    print(
        f"{CLASSES} classes, {len(split.public)} public images of {split.image_shape}, "
        f"{torch.get_num_threads()} threads, {repeats} runs in turns; limit {LIMIT:g} s\n"
    )
    print("| attack | s | range |")
    print("| --- | --- | --- |")
    for name, own in seconds.items():
        print(f"| {name} | {statistics.median(own):.2f} | {min(own):.2f} to {max(own):.2f} |", flush=True)
    return {name: statistics.median(own) for name, own in seconds.items()}


if __name__ == "__main__":
    run()
