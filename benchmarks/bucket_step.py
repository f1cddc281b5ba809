"""One logical step of bucket-level DP against non-private training on the same images, at its own best settings.

``python -m benchmarks.bucket_step`` prints a table; the ratios are of interleaved runs in one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.models import build
from dpmi.privacy import Partition, PrivacyEngine

LIMIT_TIME, LIMIT_MEMORY = 1.35, 1.2


@dataclass(frozen=True)
class Problem:
    """A model, and the buckets of one logical step.

    Args:
        name: for the table.
        model: name of the classifier.
        image_shape: (C, H, W).
        classes: number of classes.
        buckets: drawn in one logical step.
        mean_size: records per bucket; sizes vary from half to one and a half of it.
        batch_sizes: tried for non-private training.
    """

    name: str
    model: str
    image_shape: tuple[int, int, int]
    classes: int
    buckets: int
    mean_size: int
    batch_sizes: tuple[int, ...]

    def data(self) -> tuple[Tensor, Tensor, Partition]:
        """Random images; speed does not depend on what they show."""
        draw = np.random.default_rng(0)
        sizes = draw.integers(self.mean_size // 2, self.mean_size * 3 // 2 + 1, self.buckets)
        if self.mean_size == 190:  # the face set: every person has exactly 190 images
            sizes = np.full(self.buckets, 190)
        partition = Partition.by_column(draw.permutation(np.repeat(np.arange(self.buckets), sizes)))
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(len(partition), *self.image_shape, generator=generator)
        return images, torch.as_tensor(partition.bucket_of % self.classes), partition

    def classifier(self) -> nn.Module:
        """In channels_last, as every model here is built: the faster layout for both sides."""
        return build(self.model, image_shape=self.image_shape, num_classes=self.classes, seed=0)


PROBLEMS = (
    Problem("MNIST CNN 26 k, 100 x 120", "cnn", (1, 28, 28), 10, 100, 120, (64, 128, 256, 512, 1024)),
    Problem(
        "Faces94 softmax 639 k, 50 x 190", "softmax", (1, 70, 60), 152, 50, 190, (95, 190, 380, 760, 1520)
    ),
)


def private_step(problem: Problem) -> Callable[[], None]:
    """One logical step through the public API: loader, forward, backward, clipping, noise, update."""
    images, labels, partition = problem.data()
    model = problem.classifier()
    module, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9),
        data_loader=DataLoader(TensorDataset(images, labels)),
        partition=partition,
        sampling_rate=1.0 - 1e-12,  # every bucket is drawn, as the table says
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_epoch=1,
    )

    def step() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()

    return step


def ordinary_epoch(problem: Problem, batch_size: int) -> Callable[[], None]:
    """The same images once, in shuffled batches, through the fastest way of fetching them."""
    images, labels, _ = problem.data()
    model = problem.classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def epoch() -> None:
        order = torch.randperm(len(images))
        for index in order.split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()

    return epoch


def time_ratio(problem: Problem, repeats: int = 7) -> tuple[float, float, int]:
    """(private / non-private, seconds of the private step, best batch size), from medians of interleaved runs."""
    runs: dict[int, Callable[[], None]] = {b: ordinary_epoch(problem, b) for b in problem.batch_sizes}
    runs[0] = private_step(problem)
    seconds: dict[int, list[float]] = {b: [] for b in runs}
    for turn in range(repeats + 1):
        for key, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                seconds[key].append(time.perf_counter() - started)
    medians = {key: float(np.median(values)) for key, values in seconds.items()}
    best = min(problem.batch_sizes, key=medians.__getitem__)
    return medians[0] / medians[best], medians[0], best


def peak_bytes(problem: Problem, batch_size: int) -> int:
    """Peak memory of one epoch beyond data and model, in a process of its own; batch size 0 is the private step."""
    code = f"from benchmarks.bucket_step import _child; _child({problem.name!r}, {batch_size})"
    # Freed tensors go back to the system at once, so that what is resident is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    return int(output.stdout)


def _child(name: str, batch_size: int) -> None:
    problem = next(p for p in PROBLEMS if p.name == name)
    run = private_step(problem) if batch_size == 0 else ordinary_epoch(problem, batch_size)
    run()  # compiles the kernels of every batch size, once and for all
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    run()
    print(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def run() -> dict[str, float]:
    """Print the table; return every ratio by name."""
    ratios: dict[str, float] = {}
    print(
        f"{'model, buckets':34} {'time / non-private':>20} {'(limit)':>8} {'memory ratio':>13} {'(limit)':>8}"
    )
    for problem in PROBLEMS:
        ratio, seconds, best = time_ratio(problem)
        gradients = 4 * sum(p.numel() for p in problem.classifier().parameters())
        private, ordinary = peak_bytes(problem, 0), peak_bytes(problem, best)
        memory = (private - gradients) / ordinary
        print(
            f"{problem.name:34} {ratio:20.2f} {LIMIT_TIME:8.2f} {memory:13.2f} {LIMIT_MEMORY:8.2f}   "
            f"(step {seconds:.3f} s; non-private best at batch {best}; peak {private / 2**20:.0f} and "
            f"{ordinary / 2**20:.0f} MiB beyond data and model)"
        )
        ratios[f"{problem.name}: time"] = ratio
        ratios[f"{problem.name}: memory"] = memory
    return ratios


if __name__ == "__main__":
    run()
