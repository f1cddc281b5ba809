"""One logical step on two processes compared with the same step on one process, with one thread per process.

``python -m benchmarks.distributed`` prints the table. The runs are interleaved: rank 0 also does the single-process
run, while rank 1 waits.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .problems import PROBLEMS
from .steps import private_step

PROBLEM = PROBLEMS[0]
RANKS = 2
STEPS, REPEATS = 3, 7
LIMIT = 1.6


def _rank(rank: int, store: str, found: Any) -> None:
    torch.set_num_threads(1)
    # An engine that is made before the process group runs as a single process.
    alone = _step() if rank == 0 else None
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    together = _step()
    seconds: list[tuple[float, float]] = []
    for _ in range(REPEATS):
        single = _seconds(alone) if alone else 0.0
        dist.barrier()
        seconds.append((single, _seconds(together)))
    if rank == 0:
        found.put(seconds)
    dist.barrier()


def _step() -> Callable[[], None]:
    step = private_step(PROBLEM.classifier(), PROBLEM.data(), steps=STEPS)
    step()  # warm-up
    return step


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / STEPS


def run() -> dict[str, float]:
    """Return medians: the ratio, and the seconds of one logical step."""
    found = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(str(Path(folder, "store")), found), nprocs=RANKS)
    seconds = found.get()
    return {
        "one process / two": statistics.median(one / two for one, two in seconds),
        "one process, s": statistics.median(one for one, _ in seconds),
        "two processes, s": statistics.median(two for _, two in seconds),
    }


def main() -> dict[str, float]:
    """Print the table."""
    found = run()
    print(f"a private step, {PROBLEM.name}, gloo on one machine, one thread each")
    for name, value in found.items():
        print(f"  {name:28} {value:7.2f}")
    met = "met" if found["one process / two"] >= LIMIT else "MISSED"
    print(f"  limit: at least {LIMIT} times as fast: {met}")
    return found


if __name__ == "__main__":
    main()
