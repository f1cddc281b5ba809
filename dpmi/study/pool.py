"""Run a function for every job of a study in parallel, with progress reports."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch

from accountants.plugins import told

from .executors import Machines
from .grid import Job
from .store import Store, StoreError

_UPDATES_PER_SECOND = 4
Report = Callable[[str, str, int, int], None]
"""Called with the label of a job, the name of its current stage, units done, and units in total."""


@dataclass(frozen=True)
class Failure:
    """A failed job; the other jobs continue.

    >>> from tempfile import TemporaryDirectory
    >>> from dpmi.study import parse, prepare, train_models
    >>> text = '''
    ... name = "diverges"
    ... seeds = [0]
    ... data = { name = "digits" }
    ... model = "softmax"
    ... training = { steps = 5, learning_rate = 1e38 }
    ... attacks = [{ name = "miface" }]
    ... '''
    >>> spec = parse(text)
    >>> with TemporaryDirectory() as folder:
    ...     store = Store.create(Path(folder, "study"), text)
    ...     (failure,) = train_models(spec.jobs_on(prepare(spec)), store, machines=Machines(workers=1))
    >>> failure.label, failure.message.partition(":")[0]
    ('none, seed 0', 'FloatingPointError')
    """

    label: str
    message: str


def compute(
    work: Callable[..., None],
    jobs: Sequence[Job],
    store: Store,
    *,
    machines: Machines,
    report: Report | None,
) -> list[Failure]:
    """Run ``work(job, store, progress=...)`` for every job in parallel; return the failures."""
    with (
        machines.open(len(jobs)) as opened,
        _relay(report, opened.queue) as queue,
        store.marked() as mark,
    ):
        outcomes = opened.do(_guarded, [(job, mark, work, queue) for job in jobs])
    return [outcome for outcome in outcomes if outcome is not None]


def _guarded(job: Job, mark: Path, work: Callable[..., None], queue: Queue[Any] | None) -> Failure | None:
    """Run one job in a worker; return an exception as a Failure, so that the other jobs continue.

    Raises:
        StoreError: this machine does not see the mark file, so its results would be lost.
    """
    if not mark.exists():
        raise StoreError(
            f"the study's folder {mark.parent} is not the same on {platform.node()}; "
            "use a file system that every machine of the cluster mounts at this path"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    last = 0.0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if queue is not None and (done >= total or now - last > 1 / _UPDATES_PER_SECOND):
            last = now
            queue.put((job.label, what, done, total))

    try:
        work(job, Store(mark.parent), progress=progress)
    except (Exception, SystemExit) as error:  # a plug-in may raise anything
        return Failure(job.label, told(error))
    finally:
        torch.set_num_threads(threads)
    return None


@contextmanager
def _relay(
    report: Report | None, new_queue: Callable[[], AbstractContextManager[Queue[Any]]]
) -> Iterator[Queue[Any] | None]:
    """Open a queue for progress messages of the workers; a thread of this process forwards them to ``report``."""
    if report is None:
        yield None
        return
    with new_queue() as queue:

        def forward() -> None:
            while (message := queue.get()) is not None:
                report(*message)

        reader = threading.Thread(target=forward, daemon=True)
        reader.start()
        try:
            yield queue
        finally:
            queue.put(None)
            reader.join()
