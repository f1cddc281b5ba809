"""Run what a study still lacks, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from dpmi import defenses, metrics
from dpmi.data import Split
from dpmi.data.registry import DATA_ROOT_VARIABLE

from . import evaluator, schema
from .content import Content
from .executors import Machines
from .grid import Job
from .pool import Failure, Report, compute
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
    train_model,
    untrained_model,
)

HERE = Machines()


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
    machines: Machines = HERE,
    report: Report | None = None,
) -> list[Failure]:
    """Run every trial that is not in the store.

    Every job computes in one thread, so that a result does not depend on how many of them run beside it.

    Args:
        spec: the study.
        store: its folder; complete trials in it are not run again.
        on: what :func:`prepare` returned, if it was called; else it is.
        root: the data root.
        machines: which processes compute; by default one for each core of this machine.
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
    machines.check()
    if on is None:
        on = prepare(spec, root=root)
    with store.writing():
        store.save_content(on)
        jobs = pending(spec, store, on)
        return _compute_measured(run_job, jobs, spec, store, root=root, machines=machines, report=report)


def measure(
    spec: StudySpec,
    store: Store,
    *,
    root: str | None = None,
    machines: Machines = HERE,
    report: Report | None = None,
) -> list[Failure]:
    """Measure again what older code has measured, from what is stored; no model is trained, and none attacked.

    Args:
        spec: the study.
        store: its folder.
        root, machines, report: as for :func:`run`.

    Returns:
        The jobs that failed, with the reason.

    Raises:
        StoreError: the data are not those that the study ran on, or it has not run.
        As :func:`run`.
    """
    machines.check()
    on = prepare(spec, root=root)
    if on != store.content():
        raise StoreError(
            f"the data or weights are not those that the models in {store.root} were trained on; name their folder "
            "with --data-root, or run the study again"
        )
    with store.writing():
        jobs = unmeasured(spec, store)
        return _compute_measured(measure_job, jobs, spec, store, root=root, machines=machines, report=report)


def _compute_measured(
    work: Callable[..., None],
    jobs: Sequence[Job],
    spec: StudySpec,
    store: Store,
    *,
    root: str | None,
    machines: Machines,
    report: Report | None,
) -> list[Failure]:
    """Do work that measures, against what an attacker gets without the model."""
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
    work = partial(work, baselines=baselines, root=root)
    return compute(work, jobs, store, machines=machines, report=report)


def _save_classes(store: Store, split: Split) -> None:
    examples = [int((split.train.labels == k).nonzero()[0]) for k in range(split.num_classes)]
    store.save_classes(split.class_names, split.train.images[examples].numpy())


def train_models(
    jobs: Sequence[Job],
    store: Store,
    *,
    root: str | None = None,
    machines: Machines = HERE,
    report: Report | None = None,
) -> list[Failure]:
    """Train the models of these jobs that are not in the store, and attack none.

    Args:
        jobs: of one data set, one content and one model; their attacks are ignored.
        store: its folder.
        root, machines, report: as for :func:`run`.

    Returns:
        The jobs that failed, with the reason.

    Raises:
        As :func:`run`.
    """
    machines.check()
    with store.writing():
        missing = [job for job in jobs if model_numbers(job, store) is None]
        if not missing:
            return []
        root = absolute(root)
        _save_classes(store, load(jobs[0].data, root))
        work = partial(train_model, root=root)
        return compute(work, missing, store, machines=machines, report=report)


def absolute(root: str | None) -> str | None:
    """The data root as a worker on another machine finds it, with its own environment and working folder."""
    root = os.environ.get(DATA_ROOT_VARIABLE) if root is None else root
    return None if root is None else str(Path(root).absolute())
