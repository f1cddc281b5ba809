"""Progress of a study in the terminal: one bar for the study, and one per running job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from operator import attrgetter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dpmi.study.grid import Job

_HEARTBEAT_SECONDS = 15.0

ALL: Callable[[Job], int] = attrgetter("stages")
"""The stages of a run: training, attacks and measuring."""


class StudyProgress:
    """A context manager; pass its :meth:`report` to :func:`dpmi.study.run`.

    A terminal shows moving bars. If stderr is not a terminal, such as a log, a line is printed every 15 seconds.

    Args:
        name: name of the study.
        jobs: jobs that will run; together they are 100 %.
        stages: returns the number of stages of a job.
    """

    def __init__(self, name: str, jobs: Sequence[Job], *, stages: Callable[[Job], int] = ALL) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=False,
        )
        self._stages = {job.label: stages(job) for job in jobs}
        self._finished: dict[str, set[str]] = {label: set() for label in self._stages}
        self._running: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._all = self._bars.add_task(f"study {name}", total=len(self._stages))
        self._stop = threading.Event()

    def __enter__(self) -> StudyProgress:
        if self._console.is_terminal:
            self._bars.start()
        else:
            threading.Thread(target=self._heartbeat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._console.is_terminal:
            self._bars.stop()

    def report(self, label: str, what: str, done: int, total: int) -> None:
        """Update the progress of a job; see :data:`dpmi.study.pool.Report`."""
        fraction = done / max(total, 1)
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=1.0)
        if fraction >= 1:
            self._finished[label].add(what)
        # An attack may train several priors under one stage name, so a stage that finished once counts once.
        stages = len(self._finished[label]) + (0 if what in self._finished[label] else fraction)
        self._running[label] = stages / self._stages[label]
        self._bars.update(self._tasks[label], description=f"{label}: {what}", completed=fraction)
        self._bars.update(self._all, completed=sum(self._running.values()))
        if self._running[label] >= 1:
            self._bars.update(self._tasks[label], visible=False)

    def _heartbeat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            whole = self._bars.tasks[0]
            left = whole.time_remaining
            tail = "" if left is None else f", about {left:.0f} s left"
            running = ", ".join(t.description for t in self._bars.tasks[1:] if t.visible) or "starting"
            line = f"{whole.percentage:.0f} % done{tail}: {running}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
