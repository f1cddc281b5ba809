"""A peer in a process of an environment of its own, which runs and times a step at every command.

The folder of the work holds ``settings.json``, ``data.npz`` and ``weights.npz``. Commands and answers are lines on the
worker's standard input and output: ``step`` gives seconds, ``weights`` writes them to ``weights.npz``. The worker's
side needs NumPy only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]

Arrays = Mapping[str, np.ndarray]
Step = Callable[[], None]
"""Runs a whole step, and returns when its result is there."""


class WorkerEnded(Exception):
    """A worker ended before it answered; its messages are on the standard error."""


class Worker:
    """The main process's side."""

    def __init__(
        self, python: Path, module: str, folder: Path, *, settings: object, data: Arrays, weights: Arrays
    ) -> None:
        self._weights = folder / "weights.npz"
        (folder / "settings.json").write_text(json.dumps(settings))
        np.savez(folder / "data.npz", **data)
        np.savez(self._weights, **weights)
        self._process = subprocess.Popen(
            [str(python), "-m", module, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._answer()

    def step(self) -> float:
        """Run one step; return its seconds, as the worker measured them."""
        return float(self._ask("step"))

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights after the steps so far, by name."""
        self._ask("weights")
        with np.load(self._weights) as found:
            return dict(found)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            print(command, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise WorkerEnded(f"the worker ended with status {self._process.returncode}; see its messages")
        return line.strip()


def serve(make: Callable[[dict[str, Any], Path, Arrays, Arrays], tuple[Step, Callable[[], Arrays]]]) -> None:
    """Answer commands until the input ends; ``make`` gets settings, folder, data and weights."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    folder = Path(sys.argv[1])
    with np.load(folder / "data.npz") as data, np.load(folder / "weights.npz") as weights:
        settings = json.loads((folder / "settings.json").read_text())
        step, current = make(settings, folder, dict(data), dict(weights))
    print("ready", file=answers, flush=True)
    for command in sys.stdin:
        if command.strip() == "step":
            start = time.perf_counter()
            step()
            print(time.perf_counter() - start, file=answers, flush=True)
        else:
            np.savez(folder / "weights.npz", **current())
            print("written", file=answers, flush=True)
