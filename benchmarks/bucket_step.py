"""One logical step of bucket-level DP compared with non-private training and with grouped per-record gradients.

``python -m benchmarks.bucket_step [FILE.json]`` measures `benchmarks.problems`, prints a table and writes it to the
file. Ratios come from interleaved runs in one process. "Non-private" is an epoch of SGD over the same images at its own
best batch size. "Per record" uses Opacus: its per-record gradients, summed by bucket and then clipped. dpmi gets the
criterion, so that several buckets share a pass; "without a criterion" runs one bucket per pass.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import PrivacyEngine

from .in_turns import all_in_turns
from .memory import cuda_peak_of, in_child, peak_of
from .problems import PROBLEMS, Problem
from .steps import machine, ordinary_epoch, per_record_step, private_step

REPEATS = 3
OURS, WITHOUT_CRITERION, PER_RECORD = "bucket-DP", "without a criterion", "per record, then grouped"


@dataclass(frozen=True)
class Measured:
    """One line of the table.

    Args:
        problem: name of the problem.
        seconds: time of one logical step of dpmi.
        batch_size: best batch size of non-private training.
        time: time of dpmi / time of non-private training.
        without_criterion: time of dpmi with one bucket per pass / time of non-private training.
        speed: time of the per-record method / time of dpmi.
        memory: (peak of dpmi - one gradient) / peak of non-private training, at the same physical batch size.
        peak_mib: peak memory of dpmi beyond data and model.
        per_record_mib: peak memory of the per-record method.
        fetching: share of a step that draws and fetches records.
    """

    problem: str
    seconds: float
    batch_size: int
    time: float
    without_criterion: float
    speed: float
    memory: float
    peak_mib: float
    per_record_mib: float
    fetching: float


def fetching(problem: Problem) -> Callable[[], None]:
    """Run only the loader's part of a logical step: draw the buckets and fetch their records."""
    images, labels, partition = problem.data()
    model = nn.Linear(1, 1)
    _, _, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        data_loader=DataLoader(TensorDataset(images, labels)),
        partition=partition,
        sampling_rate=1.0 - 1e-12,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_epoch=1,
    )

    def fetch() -> None:
        for _ in loader.batches():
            pass

    return fetch


def measure(problem: Problem, repeats: int = REPEATS, device: str = "cpu") -> Measured:
    """Time all methods in turns, and measure every peak in a process of its own."""
    data = problem.data()
    runs: dict[object, Callable[[], None]] = {
        size: ordinary_epoch(problem.classifier(), data, size, device=device) for size in problem.batch_sizes
    }
    for way in (OURS, WITHOUT_CRITERION):
        runs[way] = private_step(
            problem.classifier(),
            data,
            with_criterion=way == OURS,
            max_physical_batch_size=problem.private_batch,
            device=device,
        )
    seconds = {key: _median(times) for key, times in all_in_turns(runs, repeats, device).items()}
    best = min(problem.batch_sizes, key=seconds.__getitem__)
    # The per-record method can take minutes, so it runs once, with one run of dpmi for comparison.
    per_record_run = per_record_step(problem.classifier(), data, problem.record_batch, device=device)
    slow = all_in_turns({PER_RECORD: per_record_run, OURS: runs[OURS]}, 1, device, warm=False)
    fetch = _median(all_in_turns({"fetch": fetching(problem)}, repeats, device)["fetch"])
    if device == "cpu":
        ours, ordinary, per_record = (
            in_child(__name__, "peak_bytes", problem.name, way) for way in (OURS, "ordinary", PER_RECORD)
        )
    else:
        ours, ordinary, per_record = (
            cuda_peak_bytes(problem, way, device) for way in (OURS, "ordinary", PER_RECORD)
        )
    gradient = 4 * sum(p.numel() for p in problem.classifier().parameters())
    return Measured(
        problem=problem.name,
        seconds=seconds[OURS],
        batch_size=best,
        time=seconds[OURS] / seconds[best],
        without_criterion=seconds[WITHOUT_CRITERION] / seconds[best],
        speed=slow[PER_RECORD][0] / slow[OURS][0],
        memory=(ours - gradient) / ordinary,
        peak_mib=ours / 2**20,
        per_record_mib=per_record / 2**20,
        fetching=fetch / seconds[OURS],
    )


def peak_bytes(name: str, way: str) -> int:
    """Peak memory of one step or epoch beyond data and model."""
    run = _way(next(p for p in PROBLEMS if p.name == name), way)
    if way != PER_RECORD:  # that would take minutes and GiB
        run()  # warm-up: builds the kernels of every batch size
    return peak_of(run)


def cuda_peak_bytes(problem: Problem, way: str, device: str) -> int:
    """Peak memory on a GPU, from its allocator."""
    run = _way(problem, way, device)
    run()
    return cuda_peak_of(run)


def _way(problem: Problem, way: str, device: str = "cpu") -> Callable[[], None]:
    model, data = problem.classifier(), problem.data()
    if way == OURS:
        return private_step(model, data, max_physical_batch_size=problem.physical, device=device)
    if way == PER_RECORD:
        return per_record_step(model, data, problem.record_batch, device=device)
    return ordinary_epoch(model, data, problem.physical, device=device)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def run(path: Path | None = None, device: str = "cpu") -> list[Measured]:
    """Print the table and write it to ``path``."""
    print(f"one logical step on {machine(device)}; (limit)")
    print(
        f"{'model, buckets':36}{'time / non-private':>20}{'without a criterion':>21}"
        f"{'x per record':>20}{'memory ratio':>18}{'fetching':>10}"
    )
    table = []
    for problem in PROBLEMS:
        m = measure(problem, device=device)
        table.append(m)
        if path is not None:  # after each row, because the table takes ten minutes
            rows = [asdict(line) for line in table]
            path.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=2))
        print(
            f"{m.problem:36}"
            f"{m.time:12.2f} ({problem.most_time:.2f}){m.without_criterion:21.2f}"
            f"{m.speed:13.1f} ({problem.least_speed:.1f})"
            f"{m.memory:11.2f} ({problem.most_memory:.1f}){m.fetching:9.1%}   "
            f"step {m.seconds:.3f} s; non-private best at batch {m.batch_size}; peak {m.peak_mib:.0f} MiB, "
            f"per record {m.per_record_mib:.0f} MiB",
            flush=True,
        )
    return table


if __name__ == "__main__":
    # Child processes import this module by name, not as __main__.
    importlib.import_module("benchmarks.bucket_step").run(
        Path(sys.argv[1]) if len(sys.argv) > 1 else None,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
