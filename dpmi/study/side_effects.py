"""Side effects of a defence: the robustness of every model of a study, [CALoR] appendix F.2 and F.3.

Adversarial attacks run on the stored models. The backdoor attack trains another model with the same defence, recipe and
seed on poisoned data. Each measurement has a file of its own, so an interrupted run resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from dpmi import metrics, versions
from dpmi.data import ImageSet, Split
from dpmi.defenses import train
from dpmi.metrics import Interval
from dpmi.metrics.backdoor import POISONED_SHARE, TARGET, TRIGGERS, backdoor_success, poison
from dpmi.metrics.robustness import ATTACKS, check_installed, robustness
from dpmi.progress import StageProgress

from . import features, maker
from .executors import Machines
from .grid import Job
from .pool import Failure, Report, compute
from .run import HERE, absolute
from .store import Store, StoreError
from .study import StudySpec
from .work import load_private, model_numbers, stored_model, untrained_model

IMAGES = 500
"""Number of test images to attack; the one-pixel attack takes hundredths of a second per image."""


class Question(NamedTuple):
    """One measurement of a model.

    Args:
        name: name of the attack or the trigger.
        settings: settings of the measurement; a stored result with other settings is ignored.
        answer: function of the job, its model ``target``, ``fresh`` (which builds that model untrained), its data
            ``split`` and ``progress``; returns the columns.
    """

    name: str
    settings: str
    answer: Callable[..., dict[str, float]]


def measure(
    spec: StudySpec,
    store: Store,
    *,
    backdoor: bool = False,
    images: int = IMAGES,
    root: str | None = None,
    machines: Machines = HERE,
    report: Report | None = None,
) -> list[Failure]:
    """Measure the side effects of every trained model of a study, unless they are in the store.

    Args:
        spec: the study.
        store: its folder.
        backdoor: also train one poisoned model per trigger of :data:`dpmi.metrics.backdoor.TRIGGERS`.
        images: number of test images to attack, at least 1, the same images for all models; all if there are fewer.
        root, machines, report: as for :func:`dpmi.study.run`.

    Returns:
        The failed jobs with their error messages.

    Raises:
        ValueError: ``images`` is below 1.
        StoreError: the study has no trained model, or another run uses its folder.
        RuntimeError: the extra ``robustness`` is not installed.
    """
    machines.check()
    jobs = unmeasured(spec, store, backdoor=backdoor, images=images)
    if not jobs:
        return []
    check_installed()
    root = absolute(root)
    work = partial(_measure_job, backdoor=backdoor, images=images, root=root)
    with store.writing():
        return compute(work, jobs, store, machines=machines, report=report)


def unmeasured(spec: StudySpec, store: Store, *, backdoor: bool = False, images: int = IMAGES) -> list[Job]:
    """The jobs with a trained model for which a side effect is missing.

    Raises:
        ValueError: ``images`` is below 1.
        StoreError: the study has no trained model.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    if backdoor and spec.checkpoint is not None:
        raise ValueError(
            f"backdoors are measured on models trained again on poisoned data, and {spec.checkpoint} is a checkpoint, "
            "which is not trained; measure without them"
        )
    trained = [job for job in spec.jobs_on(store.content()) if store.model_record(job.key) is not None]
    if not trained:
        raise StoreError(f"{store.root} has no trained model yet; run the study first")
    asked = list(questions(images, backdoor=backdoor))
    return [job for job in trained if any(_stored(store, job, question) is None for question in asked)]


def gather_side_effects(spec: StudySpec, store: Store, *, images: int = IMAGES) -> pd.DataFrame:
    """One row per trained model, in the order of the study.

    Columns: the names of the model and its settings; ``test_accuracy``; the measures of every attack and trigger, such
    as ``fgsm_accuracy``, ``fgsm_targeted``, ``badnets_accuracy``, ``badnets_success``. Most have the ends of a 95 %
    interval over images (``_low``, ``_high``). A missing measurement is NaN; a measure without any has no column.
    """
    rows = []
    for job in spec.jobs_on(store.content()):
        model = store.model_record(job.key)
        if model is None:
            continue
        row = {
            "model_key": job.key,
            "data": job.data.name,
            **{c: model[c] for c in ("model", "defense", "strength", "seed")},
        }
        numbers = model_numbers(job, store) or {"test_accuracy": math.nan}
        row |= {"label": job.setting, "test_accuracy": numbers["test_accuracy"]}
        for question in questions(images, backdoor=True):
            found = _stored(store, job, question) or {}
            row |= {f"{question.name}_{measure}": value for measure, value in found.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def questions(images: int, *, backdoor: bool) -> Iterator[Question]:
    """All measurements of a model."""
    code = f"version {versions.SIDE_EFFECTS}"
    for attack, settings in ATTACKS.items():
        yield Question(attack, f"{settings}, {images} images, {code}", partial(_adversarial, attack, images))
    if backdoor:
        for name, trigger in TRIGGERS.items():
            settings_of_all = f"{trigger!r}, share {POISONED_SHARE}, target {TARGET}, {code}"
            yield Question(name, settings_of_all, partial(_backdoor, name))


def _measure_job(
    job: Job, store: Store, *, backdoor: bool, images: int, root: str | None, progress: StageProgress
) -> None:
    split = load_private(job, root)
    target = stored_model(job, store, split)
    fresh = partial(untrained_model, job, split, features.stored(job, split.image_shape, store))
    for question in questions(images, backdoor=backdoor):
        if _stored(store, job, question) is None:
            finished = maker.started()
            found = question.answer(
                job=job, target=target, fresh=fresh, split=split, progress=partial(progress, question.name)
            )
            record = {"settings": question.settings, "found": found, "made": finished()}
            store.save_side_effect(job.key, question.name, record)
        progress(question.name, 1, 1)


def _stored(store: Store, job: Job, question: Question) -> dict[str, float] | None:
    record = store.side_effect(job.key, question.name)
    if record is None or record.get("settings") != question.settings:
        return None
    found: dict[str, float] | None = record.get("found")
    return found


def _adversarial(
    attack: str,
    images: int,
    *,
    job: Job,
    target: nn.Module,
    fresh: Callable[[], nn.Module],
    split: Split,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    chosen = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(0))[:images]
    attacked = ImageSet(split.test.images[chosen], split.test.labels[chosen])
    found = robustness(attack, target, attacked, seed=job.seed, progress=progress)
    return {**_columns("accuracy", found.accuracy), **_columns("targeted", found.targeted)}


def _backdoor(
    name: str,
    *,
    job: Job,
    target: nn.Module,
    fresh: Callable[[], nn.Module],
    split: Split,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    trigger = TRIGGERS[name]
    poisoned = train(
        job.defense,
        fresh(),
        poison(split.train, trigger, seed=job.seed),
        job.recipe,
        seed=job.seed,
        public=split.labelled_public,
        progress=progress,
    ).model
    return {
        "accuracy": metrics.accuracy(poisoned, split.test.images, split.test.labels),
        **_columns("success", backdoor_success(poisoned, split.test, trigger)),
        # Control: the effect of the trigger on a model that never saw it is not a backdoor.
        **_columns("unpoisoned", backdoor_success(target, split.test, trigger)),
    }


def _columns(name: str, interval: Interval) -> dict[str, Any]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
