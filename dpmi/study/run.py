"""Run what a study still lacks, in parallel, and gather its tables."""

from __future__ import annotations

import os
import platform
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pandas as pd
import torch

from dpmi import defenses, metrics
from dpmi.data import Split
from dpmi.data.registry import DATA_ROOT_VARIABLE

from . import evaluator, executors, maker, schema
from .content import Content
from .grid import Job, Trial
from .results import Results
from .store import Store, StoreError
from .study import StudySpec
from .work import (
    content,
    is_complete,
    is_measured,
    load,
    measure_job,
    model_numbers,
    run_job,
    statement,
    train_model,
    trial_numbers,
    untrained_model,
)

_UPDATES_PER_SECOND = 4
Report = Callable[[str, str, int, int], None]
"""Called with a job's label, what it is doing, and how much of how much of that is done."""


@dataclass(frozen=True)
class Failure:
    """A job that could not be finished; the others go on."""

    label: str
    message: str


def prepare(spec: StudySpec, *, root: str | None = None) -> Content:
    """Load what a study reads, and check that its models take it: what can go wrong before anything is written.

    Args:
        spec: the study.
        root: the data root.

    Returns:
        What the keys of the study's results depend on besides its settings.

    Raises:
        ValueError, FileNotFoundError: the data cannot be loaded, or the model does not take such images or weights.
    """
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(
            f"data root {root} is not there; name the folder that holds the data sets' folders"
        )
    for metric in metrics.added():
        if schema.column(metric.name, (*schema.TRIALS, *schema.PER_CLASS)) is not None:
            raise ValueError(
                f"metric {metric.name!r} of an installed package has the name of a column of every "
                "study; give it another"
            )
    root = absolute(root)
    split = load(spec.data, root)
    with torch.random.fork_rng(devices=[]):
        _check_defenses(spec, split)
        _check_attacks(spec, split)
    if spec.evaluator is not None:
        evaluator.untrained(spec.evaluator, split)
    return content(spec, split)


def _check_defenses(spec: StudySpec, split: Split) -> None:
    model = untrained_model(spec.jobs[0], split)
    for defense in {job.setting: job.defense for job in spec.jobs}.values():
        try:
            defenses.check(defense, model, split.train, split.labelled_public)
        except ValueError as error:
            raise ValueError(f"defenses {defense.name}: {error}") from error


def _check_attacks(spec: StudySpec, split: Split) -> None:
    queries = None if spec.budget is None else spec.budget.queries
    for attack in spec.jobs[0].attacks:
        scored = split.num_classes * attack.images_per_class
        if queries is not None and queries <= scored:
            raise ValueError(
                f"budget.queries is {queries}, and {attack.name} needs more than {scored}: it asks once for the "
                "final score of every reconstruction"
            )
        for prior in attack.priors():
            if not prior.given and len(split.public) == 0:
                raise ValueError(
                    f"attacks {attack.name}: {prior.name} is trained on public images; {split} has none"
                )
            try:
                prior.build(split.image_shape, split.num_classes)
            except (ValueError, OSError) as error:
                raise ValueError(f"attacks {attack.name}: prior: {error}") from error


def pending(spec: StudySpec, store: Store, on: Content) -> list[Job]:
    """The jobs whose model or one of whose trials is not in the store, or not measured.

    Args:
        spec: the study.
        store: its folder.
        on: its content.
    """
    return [job for job in spec.jobs_on(on) if not is_complete(job, store)]


def unmeasured(spec: StudySpec, store: Store) -> list[Job]:
    """The jobs of which something is in the store that was not measured, or by older code.

    Raises:
        StoreError: the study was stopped before it had loaded its data.
    """
    return [job for job in spec.jobs_on(store.content()) if not is_measured(job, store)]


def run(
    spec: StudySpec,
    store: Store,
    *,
    on: Content | None = None,
    root: str | None = None,
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    report: Report | None = None,
) -> list[Failure]:
    """Run every trial that is not in the store.

    Every job computes in one thread, so that a result does not depend on how many of them run beside it.

    Executor "ray" computes on a Ray cluster: the one that this process is connected to; else the one at
    ``address``; else at the environment variable RAY_ADDRESS; else one that runs on this machine; else one that
    is started, with a warning, and stopped again. Every machine of a cluster needs the same dpmi, and must see
    the store's folder and the data root under the same paths. A single job, or one worker, computes in this
    process.

    Args:
        spec: the study.
        store: its folder; complete trials in it are not run again.
        on: what :func:`prepare` returned, if it was called; else it is.
        root: the data root.
        workers: jobs at a time; by default one per core, with Ray one per CPU of the cluster and never more; it
            waits until that many are free.
        executor: "local", processes of this machine, or "ray".
        address: of a running Ray cluster, such as "10.0.0.1:6379"; "local" starts one in any case.
        report: told of progress.

    Returns:
        The jobs that failed, with the reason; empty if the study is complete.

    Raises:
        ValueError, FileNotFoundError: the data cannot be loaded, or the model does not take such images or weights.
        ValueError: there is no such executor.
        RuntimeError: Ray is not installed, or one of its workers died; what is complete is kept.
        ConnectionError: there is no Ray cluster at the address.
        StoreError: another run is at work in the store's folder, or a worker's machine does not see it.
    """
    executors.check(executor, address)
    if on is None:
        on = prepare(spec, root=root)
    with store.writing():
        store.save_content(on)
        jobs = pending(spec, store, on)
        return _compute_measured(
            run_job,
            jobs,
            spec,
            store,
            root=root,
            workers=workers,
            executor=executor,
            address=address,
            report=report,
        )


def measure(
    spec: StudySpec,
    store: Store,
    *,
    root: str | None = None,
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    report: Report | None = None,
) -> list[Failure]:
    """Measure again what older code has measured, from what is stored; no model is trained, and none attacked.

    Args:
        spec: the study.
        store: its folder.
        root, workers, executor, address, report: as for :func:`run`.

    Returns:
        The jobs that failed, with the reason.

    Raises:
        StoreError: the data are not those that the study ran on, or it has not run.
        As :func:`run`.
    """
    executors.check(executor, address)
    on = prepare(spec, root=root)
    if on != store.content():
        raise StoreError(
            f"the data or weights are not those that the models in {store.root} were trained on; name their folder "
            "with --data-root, or run the study again"
        )
    with store.writing():
        jobs = unmeasured(spec, store)
        return _compute_measured(
            measure_job,
            jobs,
            spec,
            store,
            root=root,
            workers=workers,
            executor=executor,
            address=address,
            report=report,
        )


def _compute_measured(
    work: Callable[..., None],
    jobs: Sequence[Job],
    spec: StudySpec,
    store: Store,
    *,
    root: str | None,
    **how: Any,
) -> list[Failure]:
    """Do work that measures, against what an attacker gets without the model; ``how`` is that of :func:`compute`."""
    root = absolute(root)
    split = load(spec.data, root)
    _save_classes(store, split)
    if not jobs:
        return []
    baselines = metrics.baselines(
        torch.arange(split.num_classes),
        split.train.images,
        split.train.labels,
        split.public,
        kind=split.distance,
    )
    return compute(partial(work, baselines=baselines, root=root), jobs, store, **how)


def _save_classes(store: Store, split: Split) -> None:
    examples = [int((split.train.labels == k).nonzero()[0]) for k in range(split.num_classes)]
    store.save_classes(split.class_names, split.train.images[examples].numpy())


def train_models(
    jobs: Sequence[Job],
    store: Store,
    *,
    root: str | None = None,
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    report: Report | None = None,
) -> list[Failure]:
    """Train the models of these jobs that are not in the store, and attack none.

    Args:
        jobs: of one data set, one content and one model; their attacks are ignored.
        store: its folder.
        root, workers, executor, address, report: as for :func:`run`.

    Returns:
        The jobs that failed, with the reason.

    Raises:
        As :func:`run`.
    """
    executors.check(executor, address)
    with store.writing():
        missing = [job for job in jobs if model_numbers(job, store) is None]
        if not missing:
            return []
        root = absolute(root)
        _save_classes(store, load(jobs[0].data, root))
        work = partial(train_model, root=root)
        return compute(
            work,
            missing,
            store,
            workers=workers,
            executor=executor,
            address=address,
            report=report,
        )


def gather(spec: StudySpec, store: Store) -> Results:
    """The tables and pictures of all complete trials, also of an interrupted study; the tables are stored.

    Raises:
        StoreError: the study was stopped before it had loaded its data, or a file of the folder is damaged.
    """
    class_names, examples = store.classes()
    rows: list[dict[str, Any]] = []
    classes: list[pd.DataFrame] = []
    recons: dict[str, np.ndarray] = {}
    statements: dict[str, str] = {}
    trials = spec.trials_on(store.content())
    for trial in trials:
        found = _whole(trial, store)
        if found is None:
            continue
        table = pd.DataFrame(found.pop("per_class"))
        table.insert(0, "trial", trial.key)
        classes.append(table)
        recons[trial.key] = store.recons(trial.key)
        statements[trial.key] = statement(found.pop("account"), found["delta"], spec.not_accounted)
        adaptation = "" if trial.adaptation is None else trial.adaptation.name
        names = {"label": trial.job.setting, "attack": trial.attack_label, "adaptation": adaptation}
        means = table.drop(columns=["trial", "class_index", "class_name"]).mean()
        rows.append({"trial": trial.key, "data": spec.data.name, **found, **names, **means})
    per_class = pd.concat(classes, ignore_index=True) if classes else pd.DataFrame()
    results = Results(
        name=spec.name,
        trials=pd.DataFrame(rows),
        per_class=per_class,
        recons=recons,
        examples=examples,
        class_names=class_names,
        statements=statements,
        planned=len(trials),
        spec_toml=store.spec_text,
        command=shlex.join(["dpmi", "run", f"{store.root}/study.toml", "--out", str(store.root)]),
        matched_on=spec.matched_on,
    )
    if rows:
        store.save_tables(results.trials, results.per_class)
    return results


def _whole(trial: Trial, store: Store) -> dict[str, Any] | None:
    """All that is known of a trial, in the columns of its row; None if it is not complete."""
    records = {
        "trained_by": store.model_record(trial.job.key),
        "attacked_by": store.trial_record(trial.key),
        "measured_by": trial_numbers(trial, store),
    }
    of_model = model_numbers(trial.job, store)
    parts = [record for record in records.values() if record is not None]
    if len(parts) < len(records) or of_model is None:
        return None
    made = {name: maker.told(part.pop("made")) for name, part in zip(records, parts, strict=True)}
    model, trial_record, numbers = parts
    of_model.pop("made")
    diagnostics = {f"diagnostic_{name}": value for name, value in model.pop("diagnostics").items()}
    model["remarks"] = "; ".join(model["remarks"])
    return {**model, **of_model, **diagnostics, **trial_record, **numbers, **made}


def absolute(root: str | None) -> str | None:
    """The data root as a worker on another machine finds it, with its own environment and working folder."""
    root = os.environ.get(DATA_ROOT_VARIABLE) if root is None else root
    return None if root is None else str(Path(root).absolute())


def compute(
    work: Callable[..., None],
    jobs: Sequence[Job],
    store: Store,
    *,
    workers: int | None,
    executor: str,
    address: str | None,
    report: Report | None,
) -> list[Failure]:
    """Do the same work for every job, in parallel; ``work`` takes a job, the store, and where to tell progress."""
    with (
        executors.EXECUTORS[executor](workers, address, len(jobs)) as opened,
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
