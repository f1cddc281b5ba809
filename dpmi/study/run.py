"""Run the missing trials of a study in parallel."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dpmi import defenses, metrics
from dpmi.data import Split
from dpmi.data.public_gaussian import PublicGaussian
from dpmi.data.registry import DATA_ROOT_VARIABLE
from dpmi.models import Preprocessed
from dpmi.privacy.audit import most_canaries

from . import evaluator, features, given, on_request, schema, strangers
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
    load_private,
    load_units,
    measure_job,
    model_numbers,
    roles_of,
    run_job,
    train_model,
    untrained_model,
)
from .yardsticks import Yardsticks

HERE = Machines()


def prepare(spec: StudySpec, *, root: str | None = None) -> Content:
    """Load the data of a study and check its models, defences and attacks, before anything is written.

    Args:
        spec: the study.
        root: the data root.

    Returns:
        Digests of the data and the weights, which are part of every key, and of the judges.

    Raises:
        ValueError, FileNotFoundError: the data cannot be loaded, a model does not accept these images or weights, or
            the strangers cannot be loaded.
    """
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(
            f"data root {root} does not exist; give the folder that contains the folders of the data sets"
        )
    _check_device(spec.device)
    for metric in metrics.added():
        if schema.column(metric.name, (*schema.TRIALS, *schema.PER_CLASS)) is not None:
            raise ValueError(
                f"metric {metric.name!r} of an installed package has the name of a built-in column; rename the metric"
            )
    root = absolute(root)
    split = load(spec.data, root)
    extractor = "" if spec.features is None else features.prepare(spec.features, split, root)
    _check_linkage(spec, split)
    _check_units(spec, split, root)
    _check_classes(split)
    own = load_private(spec.jobs[0], root)
    with torch.random.fork_rng(devices=[]):
        if spec.checkpoint is None:
            _check_defenses(spec, own)
        else:
            _check_given(spec, own)
        _check_audit(spec, own)
        _check_attacks(spec, own)
        weights = (
            "" if spec.evaluator is None else evaluator.prepare(spec.evaluator, split, _untrained(spec, own))
        )
    on_request.prepare(spec.knowledge, lpips=spec.lpips, split=split)
    judges = "" if spec.strangers is None else strangers.prepare(spec.strangers, split)
    return content(spec, split, features=extractor, evaluator=weights, strangers=judges)


def _check_device(name: str) -> None:
    """Refuse a device that is not there."""
    device = torch.device(name)
    found = {"cpu": 1, "mps": int(torch.backends.mps.is_available()), "cuda": torch.cuda.device_count()}
    if (device.index or 0) >= found[device.type]:
        raise ValueError(
            f"device is {name!r}, but torch finds {found[device.type]} such devices on this machine; give another one, "
            "or leave device out"
        )


def _check_classes(split: Split) -> None:
    if split.num_classes < 2:
        raise ValueError(f"data: {split.name!r} has {split.num_classes} class; a study needs at least 2")
    sizes = torch.bincount(split.train.labels, minlength=split.num_classes)
    for name, size in zip(split.class_names, sizes.tolist(), strict=True):
        if size == 0:
            raise ValueError(
                f"data: class {name!r} of {split.name!r} has no training image; give it at least one, or leave the "
                "class out"
            )


def _check_linkage(spec: StudySpec, split: Split) -> None:
    if spec.linkage is None:
        return
    if not spec.linkage.drawn and len(split.public) < 2:
        return  # the scorer's whitening is by private images then
    for job in {job.seed: job for job in spec.jobs}.values():
        roles = roles_of(job, split)
        if roles is not None:
            roles.check(split)
    try:
        PublicGaussian.of(split.public)
    except ValueError as error:
        raise ValueError(f"linkage: {error}") from error


def _check_units(spec: StudySpec, split: Split, root: str | None) -> None:
    if spec.units is None:
        return
    try:
        found = load_units(spec.data, spec.units, root)
        for half in {job.half for job in spec.jobs if job.half is not None}:
            found.records(split, half.kept(found))
    except ValueError as error:
        raise ValueError(f"units: {error}") from error
    if spec.units.references == "attacker" and len(split.public) == 0:
        raise ValueError(
            f"units.references is 'attacker', whose models train on public images; {split} has none. Give 'auditor'"
        )
    for defense in {job.setting: job.defense for job in spec.jobs}.values():
        # These defences take the units of the images as buckets, whatever the units are.
        if defense.unit in ("subclass", "user") and spec.units.unit not in ("record", defense.unit):
            raise ValueError(
                f"defenses {defense.name}: its buckets are the units of the images, and units.unit is "
                f"{spec.units.unit!r}; give {defense.unit!r}, or leave the defence out"
            )


def _untrained(spec: StudySpec, split: Split) -> nn.Module:
    """A model of the study's shapes, for checks before the extractor is trained."""
    trunk = None if spec.features is None else features.blank(spec.features, split.image_shape)
    return untrained_model(spec.jobs[0], split, trunk)


def _check_defenses(spec: StudySpec, split: Split) -> None:
    model = _untrained(spec, split)
    for job in {job.setting: job for job in spec.jobs}.values():
        try:
            defenses.check(job.defense, model, split.train, split.labelled_public, job.recipe)
        except ValueError as error:
            raise ValueError(f"defenses {job.defense.name}: {error}") from error


def _check_given(spec: StudySpec, split: Split) -> None:
    model = _untrained(spec, split)
    module = model.module if isinstance(model, Preprocessed) else model
    given.check(module, split.train, normalize=spec.normalize, outputs=spec.outputs)


def _check_audit(spec: StudySpec, split: Split) -> None:
    """Refuse more canaries than the trained parameters of a model have room for."""
    model = _untrained(spec, split)
    for job in {job.setting: job for job in spec.jobs if job.audited is not None}.values():
        assert job.audited is not None
        trained = job.defense.build(copy.deepcopy(model))
        room = most_canaries(sum(p.numel() for p in trained.parameters() if p.requires_grad))
        if job.audited.canaries > room:
            raise ValueError(
                f"audit.canaries is {job.audited.canaries}, but the model of {job.setting} has room for {room}; use at "
                "most as many"
            )


def _check_attacks(spec: StudySpec, split: Split) -> None:
    queries = None if spec.budget is None else spec.budget.queries
    if spec.classes is not None and spec.classes > split.num_classes:
        raise ValueError(
            f"classes is {spec.classes}, but the model has {split.num_classes}; give at most as many"
        )
    for attack in spec.jobs[0].attacks:
        scored = (spec.classes or split.num_classes) * attack.images_per_class
        if queries is not None and queries <= scored:
            raise ValueError(
                f"budget.queries is {queries}, but {attack.name} needs more than {scored}: it queries the target once "
                "for the final score of every reconstruction"
            )
        if "public_data" in attack.requires and not attack.priors() and len(split.public) == 0:
            raise ValueError(f"attacks {attack.name}: it needs public images; {split} has none")
        for prior in attack.priors():
            if not prior.given and len(split.public) == 0:
                raise ValueError(
                    f"attacks {attack.name}: {prior.name} needs public images for its training; {split} has none"
                )
            try:
                prior.build(split.image_shape, split.num_classes)
            except (ValueError, OSError) as error:
                raise ValueError(f"attacks {attack.name}: prior: {error}") from error


def pending(spec: StudySpec, store: Store, on: Content) -> list[Job]:
    """The jobs that are not complete: the model or a trial is not in the store, or is not measured.

    Args:
        spec: the study.
        store: its folder.
        on: digests of its data and weights.
    """
    return [job for job in spec.jobs_on(on) if not is_complete(job, store)]


def unmeasured(spec: StudySpec, store: Store) -> list[Job]:
    """The jobs with stored results that were not measured, or were measured by older code.

    Raises:
        StoreError: the study stopped before it had loaded its data.
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

    Every job uses one thread, so that its result does not depend on the number of parallel jobs.

    Args:
        spec: the study.
        store: its folder; its complete trials do not run again.
        on: the result of :func:`prepare`; default: call it.
        root: the data root.
        machines: the processes that compute; default: one per core of this machine.
        report: called with progress.

    Returns:
        The failed jobs with their error messages; empty if the study is complete.

    Raises:
        ValueError, FileNotFoundError: the data cannot be loaded, or the model does not accept these images or weights.
        ValueError: the executor is unknown.
        RuntimeError: Ray is not installed, or a Ray worker died; completed trials stay in the store.
        ConnectionError: no Ray cluster answers at the address.
        StoreError: another run uses the store's folder, or a worker's machine does not see the folder.
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
    """Measure stored models and reconstructions again if older code measured them; no target is trained or attacked.

    In a study with units, reference models that are not in the store are trained.

    Args:
        spec: the study.
        store: its folder.
        root, machines, report: as for :func:`run`.

    Returns:
        The failed jobs with their error messages.

    Raises:
        StoreError: the data differ from the data of the study's run, or the study has not run.
        ValueError, FileNotFoundError, RuntimeError, ConnectionError: as :func:`run`.
    """
    machines.check()
    on = prepare(spec, root=root)
    judges = {"evaluator": "", "strangers": ""}
    if dataclasses.replace(on, **judges) != dataclasses.replace(store.content(), **judges):
        raise StoreError(
            f"the data or weights are not those that the models in {store.root} were trained on; give their folder "
            "with --data-root, or run the study again"
        )
    with store.writing():
        store.save_content(on)  # the files of the judges may be others
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
    """Run ``work``, which measures trials, with the yardsticks of the data set."""
    root = absolute(root)
    split = load(spec.data, root)
    _save_classes(store, split)
    if not jobs:
        return []
    work = partial(work, yardsticks=Yardsticks.of(split), root=root)
    return compute(work, jobs, store, machines=machines, report=report)


def _save_classes(store: Store, split: Split) -> None:
    examples = torch.tensor([int((split.train.labels == k).nonzero()[0]) for k in range(split.num_classes)])
    store.save_classes(split.class_names, split.train.images[examples].numpy())


def train_models(
    jobs: Sequence[Job],
    store: Store,
    *,
    root: str | None = None,
    machines: Machines = HERE,
    report: Report | None = None,
) -> list[Failure]:
    """Train the models of these jobs that are not in the store; attack none.

    Args:
        jobs: jobs of one data set, content and model; their attacks are ignored.
        store: its folder.
        root, machines, report: as for :func:`run`.

    Returns:
        The failed jobs with their error messages.

    Raises:
        ValueError, FileNotFoundError, RuntimeError, ConnectionError: as :func:`run`.
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
    """The data root as an absolute path, valid in workers with another environment and working folder."""
    root = os.environ.get(DATA_ROOT_VARIABLE) if root is None else root
    return None if root is None else str(Path(root).absolute())
