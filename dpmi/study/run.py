"""Run what a study still lacks, in parallel, and gather its tables."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from dpmi import metrics, models
from dpmi.metrics import Baselines

from .results import Results
from .spec import Job, StudySpec
from .store import Store
from .trial import is_complete, load, run_job

_UPDATES_PER_SECOND = 4
Report = Callable[[str, str, int, int], None]
"""Called with a job's label, what it is doing, and how much of how much of that is done."""


@dataclass(frozen=True)
class Failure:
    """A job that could not be finished; the others go on."""

    label: str
    message: str


def pending(spec: StudySpec, store: Store) -> list[Job]:
    """The jobs whose model or one of whose trials is not in the store."""
    return [job for job in spec.jobs if not is_complete(job, store)]


def run(
    spec: StudySpec,
    store: Store,
    *,
    root: str | None = None,
    workers: int | None = None,
    report: Report | None = None,
) -> list[Failure]:
    """Run every trial that is not in the store.

    Every job computes in one thread, so that a result does not depend on how many of them run beside it.

    Args:
        spec: the study.
        store: its folder; complete trials in it are not run again.
        root: the data root.
        workers: jobs at a time; by default one per core.
        report: told of progress.

    Returns:
        The jobs that failed, with the reason; empty if the study is complete.

    Raises:
        ValueError, FileNotFoundError: the data cannot be loaded, or the model does not take such images.
    """
    store.sweep()
    jobs = pending(spec, store)
    if not jobs:
        return []
    split = load(spec.data, root)
    models.build(spec.model, image_shape=split.image_shape, num_classes=split.num_classes, seed=0)
    baselines = metrics.baselines(
        torch.arange(split.num_classes),
        split.train.images,
        split.train.labels,
        split.public,
        kind=split.distance,
    )
    first = [int((split.train.labels == k).nonzero()[0]) for k in range(split.num_classes)]
    store.save_classes(split.class_names, split.train.images[first].numpy())
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    with _relay(report) as queue:
        outcomes = Parallel(n_jobs=workers, return_as="generator_unordered")(
            delayed(_guarded)(job, store.root, baselines, root, queue) for job in jobs
        )
        return [outcome for outcome in outcomes if outcome is not None]


def gather(spec: StudySpec, store: Store) -> Results:
    """The tables and pictures of all complete trials, also of an interrupted study; the tables are stored."""
    class_names, examples = store.classes()
    rows: list[dict[str, Any]] = []
    classes: list[pd.DataFrame] = []
    recons: dict[str, np.ndarray] = {}
    statements: dict[str, str] = {}
    for trial in spec.trials:
        record, model = store.trial_record(trial.key), store.model_record(trial.job.key)
        if record is None or model is None:
            continue
        table = pd.DataFrame(record.pop("per_class"))
        table.insert(0, "trial", trial.key)
        classes.append(table)
        recons[trial.key] = store.recons(trial.key)
        statements[trial.key] = model.pop("statement")
        means = table[[c for c in table if str(c).startswith(("distance", "advantage", "score"))]].mean()
        names = {"label": trial.job.setting, "attack": trial.attack_label}
        rows.append({"trial": trial.key, **model, **record, **names, **means})
    per_class = pd.concat(classes, ignore_index=True) if classes else pd.DataFrame()
    results = Results(
        name=spec.name,
        trials=pd.DataFrame(rows),
        per_class=per_class,
        recons=recons,
        examples=examples,
        class_names=class_names,
        statements=statements,
        planned=len(spec.trials),
        spec_toml=store.spec_text,
        command=shlex.join(["dpmi", "run", f"{store.root}/study.toml", "--out", str(store.root)]),
    )
    if rows:
        store.save_tables(results.trials, results.per_class)
    return results


def _guarded(
    job: Job, root: Path, baselines: Baselines, data_root: str | None, queue: Queue[Any] | None
) -> Failure | None:
    """Run one job in a worker; what goes wrong in it is told, and does not stop the others."""
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
        run_job(job, Store(root), baselines, root=data_root, progress=progress)
    except Exception as error:
        return Failure(job.label, f"{type(error).__name__}: {error}")
    finally:
        torch.set_num_threads(threads)
    return None


@contextmanager
def _relay(report: Report | None) -> Iterator[Queue[Any] | None]:
    """A queue that workers of any process write to, read by a thread here."""
    if report is None:
        yield None
        return
    manager = SyncManager()
    manager.start(_end_with_parent)
    with manager:
        queue: Queue[Any] = manager.Queue()

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


def _end_with_parent() -> None:
    """Let the queue's process end when the study is killed: nobody would ever tell it to."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
