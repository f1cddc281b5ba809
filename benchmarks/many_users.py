"""A million users with records on the disk: time and memory of a partition, of make_private, and of a step.

``python -m benchmarks.many_users``. The records are in a memory map of NumPy, and in Arrow files of Hugging Face
``datasets`` if these are installed. Memory is the increase of the resident set, which counts the pages of a file that
were read; every part runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

from .memory import in_child, peak_of

USERS, EACH, FEATURES, CLASSES = 1_000_000, 2, 64, 10
DRAWN, STEPS = 1000, 5
"""Expected users of a step, and the number of measured steps."""


def run() -> dict[str, float]:
    """Print and return seconds and MiB."""
    kinds = ["memory map", *(["datasets"] if importlib.util.find_spec("datasets") else [])]
    print(f"{USERS:,} users with {EACH} records of {FEATURES} numbers, {DRAWN:,} users drawn in a step\n")
    print("| records | on disk | partition | make_private | a step |")
    print("| --- | --- | --- | --- | --- |")
    measured: dict[str, float] = {}
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            in_child("benchmarks.many_users", "write", kind, folder)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            found: dict[str, tuple[float, float]] = in_child("benchmarks.many_users", "measure", kind, folder)
        cells = [f"{seconds:.3g} s, {mib:.0f} MiB" for seconds, mib in found.values()]
        print(f"| {kind} | {size / 2**20:.0f} MiB | {' | '.join(cells)} |", flush=True)
        measured |= {f"{kind}, {part}, s": seconds for part, (seconds, _) in found.items()}
    return measured


def write(kind: str, folder: str) -> None:
    """Write the records, a million at a time."""
    generator = np.random.default_rng(0)
    count = USERS * EACH
    users, labels = np.arange(count) // EACH, generator.integers(CLASSES, size=count)
    np.save(Path(folder, "users.npy"), users)
    np.save(Path(folder, "labels.npy"), labels)
    if kind == "memory map":
        x = np.lib.format.open_memmap(
            Path(folder, "x.npy"), mode="w+", dtype=np.float32, shape=(count, FEATURES)
        )
        for start in range(0, count, 1_000_000):
            x[start : start + 1_000_000] = generator.standard_normal((1_000_000, FEATURES), dtype=np.float32)
        x.flush()
        return
    import datasets  # noqa: PLC0415  (an extra)
    import pyarrow as pa  # noqa: PLC0415  (used with the extra only)

    for part, start in enumerate(range(0, count, 1_000_000)):
        values = generator.standard_normal(1_000_000 * FEATURES, dtype=np.float32)
        table = pa.table(
            {
                "x": pa.FixedSizeListArray.from_arrays(pa.array(values), FEATURES),
                "y": labels[start : start + 1_000_000],
                "user": users[start : start + 1_000_000],
            }
        )
        datasets.Dataset(table).save_to_disk(Path(folder, f"part-{part}"))


def measure(kind: str, folder: str) -> dict[str, tuple[float, float]]:
    """Return seconds and MiB of each part; those of a step are the mean and the peak of several."""
    torch.set_num_threads(1)
    data, users = _opened(kind, Path(folder))
    kept: dict[str, Any] = {}
    found = {"partition": _timed(lambda: kept.update(partition=Partition.by_column(users, unit="user")))}
    model = nn.Linear(FEATURES, CLASSES)

    def make_private() -> None:
        kept["private"] = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            criterion=nn.CrossEntropyLoss(),
            data_loader=DataLoader(data),
            partition=kept["partition"],
            sampling_rate=DRAWN / USERS,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            grad_sample_mode="hooks",
            steps_per_epoch=STEPS,
        )

    found["make_private"] = _timed(make_private)

    def train() -> None:
        private, optimizer, criterion, loader = kept["private"]
        for batch in loader:
            x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
            optimizer.zero_grad()
            criterion(private(x), y).backward()
            optimizer.step()

    train()  # the first pass starts with dry runs, and sorts the records by bucket
    seconds, mib = _timed(train)
    return {**found, "a step": (seconds / STEPS, mib)}


def _opened(kind: str, folder: Path) -> tuple[Any, Any]:
    if kind == "memory map":
        labels = torch.from_numpy(np.load(folder / "labels.npy"))
        x = torch.from_numpy(np.load(folder / "x.npy", mmap_mode="c"))
        return TensorDataset(x, labels), np.load(folder / "users.npy")
    import datasets  # noqa: PLC0415  (an extra)

    parts = [datasets.load_from_disk(part) for part in sorted(folder.glob("part-*"))]
    data = datasets.concatenate_datasets(parts)
    return data.select_columns(["x", "y"]).with_format("torch"), data["user"]


def _timed(part: Callable[[], None]) -> tuple[float, float]:
    took = 0.0

    def timed() -> None:
        nonlocal took
        start = time.perf_counter()
        part()
        took = time.perf_counter() - start

    peak = peak_of(timed)
    return took, peak / 2**20


if __name__ == "__main__":
    run()
