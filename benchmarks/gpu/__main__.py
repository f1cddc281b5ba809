"""Measure the engine on a GPU: ``python -m benchmarks.gpu FOLDER`` writes gpu.json and gpu.md, in under 8 minutes.

``--device cpu --small`` runs the same code in seconds, where there is no GPU. Every problem is measured in a process of
its own, which is killed when its time is over. The files are written after every line of the table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from .measure import MODES, OUT_OF_TIME, Row, failed, rows
from .problems import Problem, problems
from .table import markdown

SECONDS = 420.0
"""For all problems: a machine is lent for 8 minutes, of which some pass before the first."""

_SPARE = 0.15
"""Share of a problem's time that is left for its last measurement."""


def main() -> None:
    """Measure every problem, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("folder", type=Path, help="where gpu.json and gpu.md are written")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny models and few records")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all problems")
    parser.add_argument("--turns", type=int, default=8, help="most measurements of each line")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --device cpu --small runs the same code in small sizes")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(arguments.device), "rows": []}

    def write(row: Row) -> None:
        found["rows"].append(asdict(row))
        table = markdown(found)
        print(table.splitlines()[-1], flush=True)
        _replace(arguments.folder / "gpu.json", json.dumps(found, indent=2) + "\n")
        _replace(arguments.folder / "gpu.md", table)

    end = time.monotonic() + arguments.seconds
    left = problems(small=arguments.small)
    while left:
        problem = left[0]
        share = problem.share / sum(other.share for other in left)
        seconds = max(0.0, end - time.monotonic()) * share
        for row in _in_time(problem, arguments, seconds):
            write(row)
        left = left[1:]
    print(markdown(found))


def machine(device: str) -> dict[str, str]:
    """Return what the figures depend on."""
    gpu = device != "cpu"
    return {
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {os.cpu_count()} cores",
        "driver": _driver() if gpu else "none",
        "cuda": torch.version.cuda or "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.split("\n")[0].strip()


def _in_time(problem: Problem, arguments: argparse.Namespace, seconds: float) -> Iterator[Row]:
    """Yield the rows of a problem, one for each mode, within so many seconds whatever happens."""
    end = time.monotonic() + seconds
    # A process that has used CUDA cannot be forked; where there is none, a fork saves the seconds of the imports.
    context = multiprocessing.get_context("fork" if arguments.device == "cpu" else "spawn")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(
        target=_measure, args=(sending, problem.name, arguments, seconds * (1 - _SPARE)), daemon=True
    )
    child.start()
    sending.close()
    modes = list(MODES)
    reason = OUT_OF_TIME
    try:
        while modes and receiving.poll(max(0.0, end - time.monotonic())):
            row = receiving.recv()
            modes.remove(row.mode)
            yield row
    except EOFError:
        child.join(5)
        reason = f"the process ended with exit code {child.exitcode}"
    finally:
        child.kill()
        child.join(10)  # it gives the memory of the device back
    for mode in modes:
        yield failed(problem, mode, reason)


def _measure(sending: Connection, name: str, arguments: argparse.Namespace, seconds: float) -> None:
    problem = next(p for p in problems(small=arguments.small) if p.name == name)
    for row in rows(problem, arguments.device, seconds=seconds, turns=arguments.turns):
        sending.send(row)


def _replace(path: Path, text: str) -> None:
    """Write a file at once, so that a kill never leaves half of it."""
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    main()
