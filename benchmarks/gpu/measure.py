"""Measures one problem: ordinary training, then the private step in every mode, each against it in turns."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.in_turns import all_in_turns
from benchmarks.memory import cuda_peak_of
from benchmarks.steps import ordinary_epoch, private_step

from .problems import Problem

MODES = ("auto", "ghost", "hooks", "stream")
"""In the order of measurement: the one that counts first, the slowest for small buckets last."""

OUT_OF_TIME = "no time was left"
_WAITS = "called a synchronizing CUDA operation"


@dataclass(frozen=True)
class Row:
    """One line of the table. Ratios are private / ordinary; None where nothing was measured.

    Args:
        problem: its name.
        mode: ``grad_sample_mode``.
        most_time: limit of ``time``.
        most_memory: limit of ``memory``.
        failed: why there are no figures.
        passes: physical batches of one logical step.
        physical: most records of one.
        seconds: of one logical step.
        ordinary_seconds: of ordinary training on the same records.
        batch_size: best batch size of ordinary training.
        turns: number of measurements of each.
        time: median of the private seconds / median of the ordinary ones.
        time_range: smallest and largest ratio of one turn.
        noise: the same ratio of ordinary training to itself.
        noise_range: its smallest and largest in one turn.
        memory: private peak / ordinary peak at batches of ``physical`` records, without the data.
        peak: private peak, in bytes.
        ordinary_peak: ordinary peak, in bytes.
        waits: waits for the device in one logical step / physical batches.
    """

    problem: str
    mode: str
    most_time: float
    most_memory: float
    failed: str | None = None
    passes: int | None = None
    physical: int | None = None
    seconds: float | None = None
    ordinary_seconds: float | None = None
    batch_size: int | None = None
    turns: int | None = None
    time: float | None = None
    time_range: tuple[float, float] | None = None
    noise: float | None = None
    noise_range: tuple[float, float] | None = None
    memory: float | None = None
    peak: int | None = None
    ordinary_peak: int | None = None
    waits: float | None = None


def rows(problem: Problem, device: str, *, seconds: float, turns: int) -> Iterator[Row]:
    """Yield one row for each mode; an error or too little memory makes a row, and the next mode is measured.

    Args:
        problem: what to measure.
        device: "cuda" or "cpu".
        seconds: time for all modes; a mode that begins ends.
        turns: most measurements of each mode.
    """
    start = time.perf_counter()
    bench = _Bench(problem, device, turns)
    for i, mode in enumerate(MODES):
        now = time.perf_counter() - start
        if now > seconds:
            yield failed(problem, mode, OUT_OF_TIME)
            continue
        try:
            row = bench.measure(mode, start + now + (seconds - now) / (len(MODES) - i))
        except Exception as error:  # whatever one mode raises, the others are still measured
            row = failed(problem, mode, _reason(error))
        _free(device)  # after the error is gone, whose frames hold the tensors of the mode
        yield row


def failed(problem: Problem, mode: str, reason: str) -> Row:
    """Return the row of a mode that could not be measured."""
    return Row(problem.name, mode, problem.most_time, problem.most_memory, failed=reason)


class _Bench:
    """The data of a problem on the device, and what was measured of ordinary training."""

    def __init__(self, problem: Problem, device: str, turns: int) -> None:
        self.problem = problem
        self.device = device
        self.turns = turns
        self.data = problem.data(device)
        self.peaks: dict[int, int | None] = {}
        self.best: int | None = None

    def measure(self, mode: str, until: float) -> Row:
        """Return the row of a mode, whose turns end at ``until``."""
        problem = self.problem
        best = self._best_batch_size()
        peak, passes, waits, step = self._private(mode)
        ordinary_peak = self._ordinary_peak(max(passes))
        epoch = self._ordinary(best)
        epoch()
        found = all_in_turns(
            {"ordinary": epoch, "private": step, "again": epoch},
            self.turns,
            self.device,
            warm=False,
            until=until,
        )
        ordinary = found["ordinary"] + found["again"]
        return Row(
            problem.name,
            mode,
            problem.most_time,
            problem.most_memory,
            passes=len(passes),
            physical=max(passes),
            seconds=_median(found["private"]),
            ordinary_seconds=_median(ordinary),
            batch_size=best,
            turns=len(found["private"]),
            time=_median(found["private"]) / _median(ordinary),
            time_range=_range(
                found["private"],
                [_median(pair) for pair in zip(found["ordinary"], found["again"], strict=True)],
            ),
            noise=_median(found["again"]) / _median(found["ordinary"]),
            noise_range=_range(found["again"], found["ordinary"]),
            memory=None if peak is None or not ordinary_peak else peak / ordinary_peak,
            peak=peak,
            ordinary_peak=ordinary_peak,
            waits=waits,
        )

    def _model(self) -> nn.Module:
        return self.problem.model().to(self.device)

    def _ordinary(self, batch_size: int) -> Callable[[], None]:
        return ordinary_epoch(
            self._model(), self.data, batch_size, bfloat16=self.problem.bfloat16, device=self.device
        )

    def _best_batch_size(self) -> int:
        if self.best is None:
            runs = {size: self._ordinary(size) for size in self.problem.batch_sizes}
            found = all_in_turns(runs, 2, self.device)
            self.best = min(found, key=lambda size: min(found[size]))
            del runs
            _free(self.device)
        return self.best

    def _ordinary_peak(self, batch_size: int) -> int | None:
        """Return the peak of ordinary training: model, optimizer and one batch."""
        if batch_size not in self.peaks:
            before = self._allocated()
            epoch = self._ordinary(batch_size)
            epoch()
            self.peaks[batch_size] = self._peak(epoch, before)
            del epoch
            _free(self.device)
        return self.peaks[batch_size]

    def _private(self, mode: str) -> tuple[int | None, list[int], float | None, Callable[[], None]]:
        """Return the peak, the sizes of the physical batches, the waits per batch, and the step."""
        problem, passes = self.problem, list[int]()
        before = self._allocated()
        step = private_step(
            self._model(),
            self.data,
            with_criterion=mode != "stream",
            bfloat16=problem.bfloat16,
            passes=passes,
            device=self.device,
            grad_sample_mode=mode,
            max_physical_batch_size=problem.physical,
        )
        step()  # with the dry runs
        passes.clear()
        waits: list[int] = []
        peak = self._peak(lambda: waits.append(_waits_of(step, self.device)), before)
        found = passes.copy()
        return peak, found, None if self.device == "cpu" else waits[-1] / len(found), step

    def _allocated(self) -> int:
        return 0 if self.device == "cpu" else torch.cuda.memory_allocated()

    def _peak(self, run: Callable[[], object], before: int) -> int | None:
        """Return the peak of a run beyond what was allocated before its model was built, in bytes; None on a CPU."""
        if self.device == "cpu":
            run()
            return None
        return self._allocated() - before + cuda_peak_of(run)


def _waits_of(run: Callable[[], None], device: str) -> int:
    """Return how often a run waits for a GPU, by torch's own warnings; 0 on the CPU."""
    if device == "cpu":
        run()
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(_WAITS in str(warning.message) for warning in caught)


def _free(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200]


def _median(values: list[float] | tuple[float, ...]) -> float:
    return float(np.median(values))


def _range(one: list[float], other: list[float]) -> tuple[float, float]:
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return min(ratios), max(ratios)
