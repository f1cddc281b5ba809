"""How time and memory of one logical step grow with the buckets, the sampling rate and the size of a bucket.

``python -m benchmarks.sweep [FOLDER]`` prints the table, and writes ``sweep.json`` and ``sweep.png``.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.models import build
from dpmi.privacy import Partition, PrivacyEngine

from .bucket_step import machine
from .memory import in_child, peak_of

RECORDS = 12_000
STEPS = 3


@dataclass(frozen=True)
class Setting:
    """What one logical step draws.

    Args:
        series: what varies.
        buckets: K.
        size: records per bucket.
        sampling_rate: q.
    """

    series: str
    buckets: int
    size: int
    sampling_rate: float

    @property
    def drawn(self) -> float:
        """Records that one logical step is expected to draw."""
        return self.buckets * self.size * self.sampling_rate


@dataclass(frozen=True)
class Point:
    """What was measured of one setting.

    Args:
        setting: what was drawn.
        seconds: of one logical step.
        peak_mib: beyond data and model.
    """

    setting: Setting
    seconds: float
    peak_mib: float


SETTINGS = (
    *(Setting("K, the same records drawn", k, RECORDS // k, 1.0) for k in (10, 100, 1000, 3000, 12_000)),
    *(Setting("K, buckets of 12", k, 12, 1.0) for k in (10, 100, 1000, 10_000)),
    *(Setting("q, K = 1,000 buckets of 12", 1000, 12, q) for q in (0.1, 0.25, 0.5, 1.0)),
    *(Setting("size of 100 buckets", 100, size, 1.0) for size in (4, 12, 40, 120, 400)),
)


def steps(setting: Setting) -> tuple[float, int]:
    """(Seconds of one logical step, peak bytes) of the small MNIST CNN."""
    partition = Partition.by_column(np.arange(setting.buckets * setting.size) // setting.size)
    images = torch.rand(len(partition), 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = build("cnn", image_shape=(1, 28, 28), num_classes=10, seed=0)
    module, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        data_loader=DataLoader(TensorDataset(images, torch.as_tensor(partition.bucket_of % 10))),
        partition=partition,
        sampling_rate=min(setting.sampling_rate, 1.0 - 1e-12),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_epoch=STEPS,
        seed=0,
    )

    def run() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()

    run()
    started = time.perf_counter()
    peak = peak_of(run)
    return (time.perf_counter() - started) / STEPS, peak


def run(folder: Path | None = None) -> list[Point]:
    """Measure every setting in a process of its own."""
    print(f"one logical step, MNIST CNN with 26 k parameters, on {machine()}")
    points = []
    for s in SETTINGS:
        seconds, peak = in_child(__name__, "steps", s)
        points.append(Point(s, seconds, peak / 2**20))
        print(
            f"{s.series:28} K = {s.buckets:6,} of {s.size:5,} records, q = {s.sampling_rate:4g}: "
            f"{1e6 * seconds / s.drawn:7.1f} us per record drawn, peak {peak / 2**20:6.1f} MiB",
            flush=True,
        )
    if folder is not None:
        rows = [asdict(p) for p in points]
        (folder / "sweep.json").write_text(json.dumps({"machine": machine(), "points": rows}, indent=2))
        draw(points, folder / "sweep.png")
    return points


def draw(points: list[Point], path: Path) -> None:
    """Time against the records drawn, and peak memory, one line for each series."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for series in dict.fromkeys(p.setting.series for p in points):
        line = [p for p in points if p.setting.series == series]
        drawn = [p.setting.drawn for p in line]
        left.plot(drawn, [p.seconds for p in line], "o-", label=series, alpha=0.8)
        right.plot(drawn, [p.peak_mib for p in line], "o-", label=series, alpha=0.8)
    span = np.array([min(p.setting.drawn for p in points), max(p.setting.drawn for p in points)])
    reference = next(p for p in points if p.setting.drawn == RECORDS)
    left.plot(span, span * reference.seconds / RECORDS, "k:", label="in proportion to the records")
    left.set(xscale="log", yscale="log", ylabel="seconds of one logical step")
    right.set(xscale="log", ylabel="peak memory beyond data and model, MiB", ylim=(0, None))
    for axis in (left, right):
        axis.set_xlabel("records drawn in a logical step")
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    # What a child process imports too, unlike __main__.
    importlib.import_module("benchmarks.sweep").run(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
