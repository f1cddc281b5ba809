"""Peak memory of a function, measured in a separate process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def in_child(module: str, function: str, *arguments: object, trimmed: bool = True) -> Any:
    """Call a function of a module in a new process; if ``trimmed``, it returns freed tensors to the system at once."""
    code = (
        "import importlib, pickle, sys; call = pickle.loads(sys.stdin.buffer.read()); "
        "found = getattr(importlib.import_module(call[0]), call[1])(*call[2]); "
        "sys.stdout.buffer.write(pickle.dumps(found))"
    )
    environment = {
        # With a small cache oneDNN would rebuild kernels for batch sizes that it has evicted.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16384",
        **os.environ,
        **({"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if trimmed else {}),
    }
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((module, function, arguments)),
        check=True,
        stdout=subprocess.PIPE,
        env=environment,
    )
    return pickle.loads(answer.stdout)


def peak_of(run: Callable[[], None]) -> int:
    """Increase of the resident memory during ``run``, in bytes."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    run()
    return _resident("VmHWM") - before


def cuda_peak_of(run: Callable[[], object]) -> int:
    """Increase of the memory that torch allocated on the GPU during ``run``, in bytes."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak() -> int:
    """Peak of the resident memory of this process, in bytes."""
    return _resident("VmHWM")


def _resident(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024
