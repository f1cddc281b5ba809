"""Time and memory of one logical step against the number of buckets, the sampling rate and the size of a bucket.

``python -m benchmarks.sweep [FOLDER]`` prints the table and writes ``sweep.json`` and ``sweep.png`` to the folder.
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
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.models import build
from dpmi.privacy import Partition, PrivacyEngine

from .memory import in_child, peak_of
from .steps import machine

RECORDS = 12_000
STEPS = 2
#: Number of passes; the fastest counts, because other load on the machine only adds time.
PASSES = 3


@dataclass(frozen=True)
class Setting:
    """The buckets of one logical step.

    Args:
        series: name of the series.
        varied: field that varies within the series.
        buckets: number K of buckets.
        size: records per bucket.
        sampling_rate: q in (0, 1].
    """

    series: str
    varied: str
    buckets: int
    size: int
    sampling_rate: float

    @property
    def drawn(self) -> float:
        """Expected number of records in one logical step."""
        return self.buckets * self.size * self.sampling_rate


@dataclass(frozen=True)
class Point:
    """The measurements of one setting.

    Args:
        setting: the setting.
        seconds: time of one logical step, in the fastest of several passes.
        peak_mib: peak memory beyond data and model.
    """

    setting: Setting
    seconds: float
    peak_mib: float


SETTINGS = (
    *(
        Setting("12,000 records in K buckets", "buckets", k, RECORDS // k, 1.0)
        for k in (10, 100, 1000, 3000, 12_000)
    ),
    *(Setting("K buckets of 12", "buckets", k, 12, 1.0) for k in (10, 100, 1000, 10_000)),
    *(Setting("100 of K buckets of 12", "buckets", k, 12, 100 / k) for k in (100, 1000, 10_000)),
    *(
        Setting("a share q of 1,000 buckets of 12", "sampling_rate", 1000, 12, q)
        for q in (0.1, 0.25, 0.5, 1.0)
    ),
    *(Setting("100 buckets", "size", 100, size, 1.0) for size in (4, 12, 40, 120, 400)),
)


_LABELS = {"buckets": "buckets K", "sampling_rate": "sampling rate q", "size": "records per bucket"}


def steps(setting: Setting) -> tuple[float, int]:
    """Return (seconds of one logical step, peak memory in bytes) for the small MNIST CNN."""
    partition = Partition.by_column(np.arange(setting.buckets * setting.size) // setting.size)
    images = torch.rand(len(partition), 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = build("cnn", image_shape=(1, 28, 28), num_classes=10, seed=0)
    module, optimizer, criterion, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        data_loader=DataLoader(TensorDataset(images, torch.as_tensor(partition.bucket_of % 10))),
        partition=partition,
        criterion=nn.CrossEntropyLoss(),
        sampling_rate=min(setting.sampling_rate, 1.0 - 1e-12),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_epoch=STEPS,
        seed=0,
    )

    def run() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            criterion(module(x), y).backward()
            optimizer.step()

    run()
    seconds, peaks = [], []
    for _ in range(PASSES):
        started = time.perf_counter()
        peaks.append(peak_of(run))
        seconds.append((time.perf_counter() - started) / STEPS)
    return min(seconds), max(peaks)


def run(folder: Path | None = None) -> list[Point]:
    """Measure every setting in a separate process."""
    print(f"one logical step, MNIST CNN with 26 k parameters, on {machine()}")
    points = []
    for s in SETTINGS:
        seconds, peak = in_child(__name__, "steps", s)
        points.append(Point(s, seconds, peak / 2**20))
        print(
            f"{s.series:32} K = {s.buckets:6,} of {s.size:5,} records, q = {s.sampling_rate:4g}: "
            f"{1e6 * seconds / s.drawn:7.1f} us per record drawn, peak {peak / 2**20:6.1f} MiB",
            flush=True,
        )
    if folder is not None:
        rows = [asdict(p) for p in points]
        (folder / "sweep.json").write_text(json.dumps({"machine": machine(), "points": rows}, indent=2))
        draw(points, folder / "sweep.png")
    return points


def draw(points: list[Point], path: Path) -> None:
    """Draw time per record and peak memory, one column per series."""
    names = list(dict.fromkeys(p.setting.series for p in points))
    figure, axes = plt.subplots(
        2, len(names), figsize=(13, 5), sharex="col", sharey="row", layout="constrained", squeeze=False
    )
    for (top, bottom), name in zip(axes.T, names, strict=True):
        line = [p for p in points if p.setting.series == name]
        varied = [getattr(p.setting, p.setting.varied) for p in line]
        top.plot(varied, [1e6 * p.seconds / p.setting.drawn for p in line], "o-")
        bottom.plot(varied, [p.peak_mib for p in line], "o-")
        top.set(title=name, xscale="log")
        top.title.set_fontsize(9)
        bottom.set_xlabel(_LABELS[line[0].setting.varied])
        for axis in (top, bottom):
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:  # shared by the row
        axis.set_ylim(0, None)
    axes[0, 0].set_ylabel("us per record drawn")
    axes[1, 0].set_ylabel("peak memory beyond\ndata and model, MiB")
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    # Child processes import this module by name, not as __main__.
    importlib.import_module("benchmarks.sweep").run(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
