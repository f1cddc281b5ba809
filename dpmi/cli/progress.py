"""Progress of a study in the terminal: one bar for the study, and one per running job."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from operator import attrgetter
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dpmi.study.grid import Job

_HEARTBEAT_SECONDS = 15.0

_RECENT = 10
"""Finished jobs from whose pace the rest is estimated."""

ALL: Callable[[Job], int] = attrgetter("stages")
"""The stages of a run: training, attacks and measuring."""


class StudyProgress:
    """A context manager; pass its :meth:`report` to :func:`dpmi.study.run`.

    A terminal shows moving bars. If stderr is not a terminal, such as a log, a line is printed every 15 seconds. The
    time left is that of the pace since one of the last jobs finished; before the first has, it is unknown, since that
    job makes what all share, such as an extractor.

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
            _TimeLeft(self),
            console=self._console,
            transient=False,
        )
        self._stages = {job.label: stages(job) for job in jobs}
        self._finished: dict[str, set[str]] = {label: set() for label in self._stages}
        self._running: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._ends: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        """When a job finished, and the jobs and parts of jobs that were done then."""
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
        self._bars.update(self._all, completed=self._done)
        if self._running[label] >= 1 and self._bars.tasks[self._tasks[label]].visible:
            self._bars.update(self._tasks[label], visible=False)
            self._ends.append((monotonic(), self._done))

    @property
    def _done(self) -> float:
        """Jobs and parts of jobs."""
        return sum(self._running.values())

    def left(self) -> float | None:
        """Return the seconds until all jobs are finished, at the recent pace; None if there is none yet."""
        if not self._ends:
            return None
        since, done = self._ends[0]
        pace = (self._done - done) / max(monotonic() - since, 1e-9)
        return (len(self._stages) - self._done) / pace if pace > 0 else None

    def _heartbeat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            whole = self._bars.tasks[self._all]
            left = self.left()
            tail = "" if left is None else f", about {left:.0f} s left"
            running = ", ".join(t.description for t in self._bars.tasks[1:] if t.visible) or "starting"
            line = f"{whole.percentage:.0f} % done{tail}: {running}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class _TimeLeft(TimeRemainingColumn):
    """The time that is left: of the study at its own pace, of a stage at that of its updates."""

    def __init__(self, study: StudyProgress) -> None:
        super().__init__()
        self._study = study

    def render(self, task: Task) -> Text:
        if task.id != self._study._all:
            return super().render(task)
        left = self._study.left()
        known = "-:--:--" if left is None else str(timedelta(seconds=round(left)))
        return Text(known, style="progress.remaining")
