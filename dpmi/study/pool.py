"""The same work for every job of a study, in parallel, with its progress."""

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

from .executors import Machines
from .grid import Job
from .store import Store, StoreError

_UPDATES_PER_SECOND = 4
Report = Callable[[str, str, int, int], None]
"""Called with a job's label, what it is doing, and how much of how much of that is done."""


@dataclass(frozen=True)
class Failure:
    """A job that could not be finished; the others go on."""

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
    """Do the same work for every job, in parallel; ``work`` takes a job, the store, and where to tell progress."""
    with (
        machines.open(len(jobs)) as opened,
        _relay(report, opened.queue) as queue,
        store.marked() as mark,
    ):
        outcomes = opened.do(_guarded, [(job, mark, work, queue) for job in jobs])
    return [outcome for outcome in outcomes if outcome is not None]


def _guarded(job: Job, mark: Path, work: Callable[..., None], queue: Queue[Any] | None) -> Failure | None:
    """Work on one job in a worker; what goes wrong in it is told, and does not stop the others.

    Raises:
        StoreError: this machine has no such mark, so what it computed would be lost.
    """
    if not mark.exists():
        raise StoreError(
            f"the study's folder {mark.parent} is not the same on {platform.node()}; "
            "put it on a file system that every machine of the cluster sees under this path"
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
    except Exception as error:
        return Failure(job.label, f"{type(error).__name__}: {error}")
    finally:
        torch.set_num_threads(threads)
    return None


@contextmanager
def _relay(
    report: Report | None, new_queue: Callable[[], AbstractContextManager[Queue[Any]]]
) -> Iterator[Queue[Any] | None]:
    """A queue that workers of any process write to, read by a thread here."""
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
