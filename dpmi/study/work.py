"""One job of a study: train a model, attack it and measure; each stage is skipped if its result is in the store."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from filelock import Timeout
from torch import nn

from accountants import Adjacency
from accountants.mechanism import poisson
from accountants.plugins import origin
from dpmi import data, metrics, models, versions
from dpmi.attacks import Budget, Reconstructions
from dpmi.data import ImageSet, Split
from dpmi.data.halves import HalfDraw, Units, divide
from dpmi.data.public_set import with_public_folder, with_public_of
from dpmi.data.roles import RoleDraw, Roles
from dpmi.data.users import with_users
from dpmi.defenses import Trained, private_part, train
from dpmi.models import Preprocessed
from dpmi.models.features import FeatureClassifier
from dpmi.privacy import Account
from dpmi.privacy.audit import Audit, auditing
from dpmi.progress import StageProgress

from . import evaluator, features, linkage, maker, strangers, units
from .content import Content
from .features import Trunk
from .grid import Job, Trial, hashed
from .spec import DataSpec, UnitsSpec, UsersSpec
from .store import Store
from .study import StudySpec
from .yardsticks import Yardsticks

#: Name of this stage in progress reports.
MEASURING = "measuring"


class _Source(NamedTuple):
    """What determines a loaded data set, in a form that caches take."""

    name: str
    options: tuple[tuple[str, Any], ...]
    root: str | None
    users: UsersSpec | None = None
    folder: str | None = None
    crop: int | None = None
    public: _Source | None = None

    @classmethod
    def of(cls, spec: DataSpec, root: str | None) -> _Source:
        found = cls(spec.name, _pairs(spec.options), root, spec.users)
        if spec.public is None:
            return found
        other = spec.public.name
        public = None if other is None else cls(other, _pairs(spec.public.options), root)
        return found._replace(folder=spec.public.folder, crop=spec.public.crop, public=public)

    @property
    def loaded(self) -> Split:
        """The data set as its loader returns it."""
        return data.load(self.name, root=self.root, **dict(self.options))


def _pairs(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(options.items()))


@lru_cache(maxsize=1)  # most jobs of a worker share a data set; two could exhaust the memory
def _load(source: _Source) -> Split:
    split = source.loaded
    if source.folder is not None:
        split = with_public_folder(split, source.folder, crop=source.crop)
    if source.public is not None:
        split = with_public_of(split, source.public.loaded)
    if source.users is None:
        return split
    return with_users(split, size=source.users.size, seed=source.users.seed)


def load(spec: DataSpec, root: str | None) -> Split:
    """Load the study's data set; the process keeps it in memory between jobs."""
    return _load(_Source.of(spec, root))


@lru_cache(maxsize=2)  # the trials of a job share it
def _of_roles(source: _Source, draw: RoleDraw) -> tuple[Roles, Split]:
    split = _load(source)
    roles = draw.roles(split.num_classes)
    return roles, roles.of(split)


def roles_of(job: Job, split: Split) -> Roles | None:
    """The private classes and the decoys of a job in the study's data set; None if all classes are private.

    Raises:
        ValueError: the data set has too few classes.
    """
    return None if job.roles is None else job.roles.roles(split.num_classes)


@lru_cache(maxsize=1)  # all models of a study share it, and k-means takes a while
def _units(source: _Source, spec: UnitsSpec) -> Units:
    return divide(_load(source), spec.unit, clusters_per_class=spec.clusters_per_class)


def load_units(data: DataSpec, spec: UnitsSpec, root: str | None) -> Units:
    """Load the units of the study's data set; the process keeps them in memory between jobs.

    Raises:
        ValueError: the images cannot be divided into such units.
    """
    return _units(_Source.of(data, root), spec)


@lru_cache(maxsize=2)  # the trials of a job share it
def _of_half(source: _Source, spec: UnitsSpec, draw: HalfDraw) -> Split:
    found = _units(source, spec)
    return found.part(_load(source), draw.kept(found))


def load_private(job: Job, root: str | None) -> Split:
    """Load the data set of a job's target: without the decoys, or without the units that are out."""
    source = _Source.of(job.data, root)
    if job.roles is not None:
        return _of_roles(source, job.roles)[1]
    if job.units is not None and job.half is not None:
        return _of_half(source, job.units, job.half)
    return _load(source)


def content(spec: StudySpec, split: Split, **others: str) -> Content:
    """Digests of the data, the initial weights, the public extractor and the judges of a study.

    Args:
        spec: the study.
        split: its data.
        others: the results of ``prepare`` in :mod:`dpmi.study.features`, :mod:`dpmi.study.evaluator` and
            :mod:`dpmi.study.strangers`, by the fields of :class:`Content`; empty without such a part.

    Raises:
        ValueError: the weights cannot be read.
    """
    source = spec.weights if spec.checkpoint is None else spec.checkpoint
    weights = "" if source is None else models.source_digest(source, spec.model)
    return Content(data=split.digest, weights=weights, **others)


def is_complete(job: Job, store: Store) -> bool:
    """Whether the model and all its trials are stored and measured."""
    return (
        store.model_record(job.key) is not None
        and all(store.trial_record(trial.key) is not None for trial in job.trials)
        and is_measured(job, store)
    )


def is_measured(job: Job, store: Store) -> bool:
    """Whether all stored results of a job are measured."""
    if store.model_record(job.key) is not None and model_numbers(job, store) is None:
        return False
    return all(
        trial_numbers(trial, store) is not None
        for trial in job.trials
        if store.trial_record(trial.key) is not None
    )


def model_numbers(job: Job, store: Store) -> dict[str, Any] | None:
    """Measurements of a job's model; None if they are missing or come from older code."""
    return store.measured("models", job.key, _measurement_of_models(job))


def trial_numbers(trial: Trial, store: Store) -> dict[str, Any] | None:
    """Measurements of a trial; None if they are missing or come from older code or another evaluator."""
    return store.measured("trials", trial.key, _measurement_of_trials(trial.job))


def _measurement_of_models(job: Job) -> str:
    return hashed(measurement=versions.MEASUREMENT, **units.settings(job))


def _measurement_of_trials(job: Job) -> str:
    packages = sorted(f"{metric.name} {origin(metric.measure)}" for metric in metrics.added())
    return hashed(
        measurement=versions.MEASUREMENT,
        evaluator=evaluator.evaluator_key(job),
        **({"packages": packages} if packages else {}),
        **({} if job.linkage is None else {"scorer": job.linkage.scorer}),
        **({} if job.strangers is None else {"strangers": job.strangers_digest}),
    )


def train_model(job: Job, store: Store, *, root: str | None, progress: StageProgress) -> None:
    """Train and measure the model of a job, unless the store has the result.

    In a study with a unit game, measuring needs the reference models, which are trained, too.

    Args:
        job: the model.
        store: receives the result.
        root: the data root.
        progress: called with the stage, units done, and units in total.
    """
    _train(job, store, root=root, progress=progress)
    progress("training", 1, 1)
    if model_numbers(job, store) is None:
        _measure_model(job, store, root=root, progress=progress)
    if job.game is not None:
        progress(units.TRAINING, 1, 1)


def _train(
    job: Job,
    store: Store,
    *,
    root: str | None,
    progress: StageProgress,
    stage: str = "training",
    patience: float = -1,
) -> None:
    """Train the model of a job unless it is in the store.

    Args:
        job, store, root: as for :func:`train_model`.
        progress: called with the stage, units done, and units in total.
        stage: name of the training in progress reports.
        patience: as for :meth:`Store.training`.

    Raises:
        Timeout: another worker is still training it.
    """
    with store.training(job.key, patience=patience) as missing:
        if not missing:
            return
        split = load_private(job, root)
        trunk = features.trunk(job, load(job.data, root), store, root=root, progress=progress)
        finished = maker.started(job.device)
        audit = job.audited
        with nullcontext() if audit is None else auditing(Audit(seed=job.seed, **audit.model_dump())):
            model = untrained_model(job, split, trunk).to(job.device)
            trained = (
                Trained(model=model.eval(), account=None, seconds=0.0, diagnostics={})
                if job.given
                else train(
                    job.defense,
                    model,
                    split.train,
                    job.recipe,
                    seed=job.seed,
                    public=split.labelled_public,
                    progress=partial(progress, stage),
                )
            )
        store.save_model(job.key, trained.model, {**_model_record(job, trained), "made": finished()})


def run_job(
    job: Job, store: Store, *, yardsticks: Yardsticks, root: str | None, progress: StageProgress
) -> None:
    """Train a model, attack it and measure; skip each stage whose result is in the store.

    Args:
        job: the model and its attacks.
        store: receives the results.
        yardsticks: distances of other images, for every class of the data set.
        root: the data root.
        progress: called with the stage, units done, and units in total.
    """
    if is_complete(job, store):
        return
    train_model(job, store, root=root, progress=progress)
    split = load_private(job, root)
    # Attacks the stored model, as a resumed study does.
    target = stored_model(job, store, split)
    for trial in job.trials:
        if store.trial_record(trial.key) is None:
            _attack(trial, target, split, store, progress)
        if trial.attack.priors():
            progress(_of_prior(trial), 1, 1)
        progress(trial.what, 1, 1)
    measure_job(job, store, yardsticks=yardsticks, root=root, progress=progress)


def measure_job(
    job: Job, store: Store, *, yardsticks: Yardsticks, root: str | None, progress: StageProgress
) -> None:
    """Measure the stored results of a job that were not measured, or were measured by older code.

    This trains the evaluator and the reference models of a unit game if the store has none.

    Args:
        job, store, yardsticks, root, progress: as for :func:`run_job`.
    """
    split, own = load(job.data, root), load_private(job, root)
    record = store.model_record(job.key)
    if record is None:
        return  # missing or damaged; the next run of the study trains it, and measures its trials then
    if model_numbers(job, store) is None:
        _measure_model(job, store, root=root, progress=progress)
    trials = [trial for trial in job.trials if store.trial_record(trial.key) is not None]
    left = [trial for trial in trials if trial_numbers(trial, store) is None]
    judge = evaluator.judge(job, split, store, progress) if left else None
    panel = strangers.panel(job, split) if left else ()
    target, roles = stored_model(job, store, own), roles_of(job, split)
    for done, trial in enumerate(left):
        progress(MEASURING, done, len(left))
        finished = maker.started()
        recons = linkage.in_data_set(store.reconstructions(trial.key), roles)
        parts = [_numbers(recons, split, yardsticks)]
        if judge is not None:
            decoys = () if roles is None else roles.decoys
            parts.append(evaluator.columns(recons, judge, target, split, decoys=decoys))
        if panel:
            accepted = None if judge is None else evaluator.accepts(recons, judge)
            parts.append(strangers.columns(recons, panel, split, roles=roles, own=accepted))
        if roles is not None:
            promise = {"account": record["account"], "unit": record["unit"]}
            parts.append(linkage.columns(recons, roles, split, job, **promise))
        elif job.given:
            parts.append(linkage.columns_among_classes(recons, split))
        found = {name: value for whole, _ in parts for name, value in whole.items()}
        found["per_class"] = {name: value for _, per_class in parts for name, value in per_class.items()}
        store.save_measured("trials", trial.key, _measurement_of_trials(job), {**found, "made": finished()})
    if job.game is not None:
        progress(units.TRAINING, 1, 1)
    if job.evaluator is not None:
        progress(evaluator.TRAINING, 1, 1)
    progress(MEASURING, 1, 1)


def _measure_model(job: Job, store: Store, *, root: str | None, progress: StageProgress) -> None:
    split = load_private(job, root)
    target = stored_model(job, store, split)
    references = _references(job, target, store, root=root, progress=progress)
    finished = maker.started()
    found = {
        f"{part}_accuracy": _accuracy(target, images)
        for part, images in (("train", split.train), ("test", split.test))
    }
    record = store.model_record(job.key)
    if job.game is not None and record is not None:
        whole = load(job.data, root)
        own = units.Reference(store.root, job.key, job.half, partial(stored_model, job, store, whole))
        found["unit_auc"] = units.auc(own, references, load_units(job.data, job.game, root), whole)
        found["unit_bound_auc"] = units.bound(record["account"], record["unit"], job.game.unit)
    store.save_measured("models", job.key, _measurement_of_models(job), {**found, "made": finished()})


def _accuracy(target: nn.Module, images: ImageSet) -> float:
    """Accuracy on whole data sets, whose features are computed once for all models."""
    if isinstance(target, FeatureClassifier):
        return metrics.accuracy(target.top, target.inputs(images.images), images.labels)
    return metrics.accuracy(target, images.images, images.labels)


def _references(
    job: Job, target: nn.Module, store: Store, *, root: str | None, progress: StageProgress
) -> list[units.Reference]:
    """The reference models of a job's unit game, trained now unless they are in the store; none without a game."""
    split, tell = load(job.data, root), partial(progress, units.TRAINING)
    others = units.others(job)
    # First the models that no other worker is training, so that workers do not wait for one another at every model.
    for patience in (0, -1):
        for other in others:
            with suppress(Timeout):
                _train(other, store, root=root, progress=progress, stage=units.TRAINING, patience=patience)
    found = [
        units.Reference(store.root, other.key, other.half, partial(stored_model, other, store, split))
        for other in others
    ]
    for shadow in units.shadows(job):
        own = dataclasses.replace(job, seed=shadow.seed)
        fresh = partial(untrained_model, own, split, features.stored(job, split.image_shape, store))
        shadow.train(
            fresh=fresh,
            recipe=job.recipe,
            target=target,
            public=split.public,
            store=store,
            progress=tell,
        )
        found.append(units.Reference(store.root, shadow.key, None, partial(shadow.load, fresh, store)))
    return found


def untrained_model(job: Job, split: Split, trunk: Trunk | None) -> nn.Module:
    """The classifier of a job before its training.

    Args:
        job: the job.
        split: determines the shape of images and the number of classes.
        trunk: the extractor in front of the model; None if the study has no features.

    Raises:
        ValueError: the model does not accept images of this shape, or the initial weights belong to another model.
    """
    model = _fresh_model(job, split, trunk)
    if job.weights is not None:
        inner = model.module if isinstance(model, Preprocessed) else model
        left = models.load_weights(inner, job.weights, name=job.model)
        if job.given and left:
            raise ValueError(
                f"checkpoint {job.weights} has another number of classes than the {split.num_classes} of the data set: "
                f"{left[0]} has another shape; give the data set of its classes"
            )
    return model


def stored_model(job: Job, store: Store, split: Split) -> nn.Module:
    """The stored trained model of a job, in evaluation mode."""
    fresh = _fresh_model(job, split, features.stored(job, split.image_shape, store))
    model = job.defense.build(fresh).eval()
    store.load_weights(job.key, model)
    return model.to(job.device)


def _fresh_model(job: Job, split: Split, trunk: Trunk | None) -> nn.Module:
    shape = split.image_shape if trunk is None else trunk.input_shape
    top = models.build(
        job.model,
        image_shape=shape,
        num_classes=split.num_classes,
        seed=job.seed,
        options=dict(job.model_options),
    )
    if trunk is not None:
        top = trunk.under(top)
    if job.normalize is None and job.outputs == "logits":
        return top
    numbers = {} if job.normalize is None else job.normalize.model_dump()
    return Preprocessed(top, **numbers, probabilities=job.outputs == "probabilities")


def _attack(trial: Trial, target: nn.Module, split: Split, store: Store, progress: StageProgress) -> None:
    """Reconstruct every class and store the result of the attack."""
    whole = maker.started(trial.job.device)
    knowledge = trial.attack.fit(
        target,
        public=split.public,
        public_labels=split.public_labels,
        image_shape=split.image_shape,
        folder=store.priors,
        progress=partial(progress, _of_prior(trial)),
    )
    budget = trial.job.budget
    started = time.perf_counter()
    recons = trial.attack.run(
        target,
        trial.attacked(split.num_classes),
        image_shape=split.image_shape,
        generator=torch.Generator().manual_seed(trial.job.seed),
        knowledge=knowledge,
        budget=None if budget is None else Budget(**budget.model_dump()),
        adaptation=trial.adaptation,
        progress=partial(progress, trial.what),
    )
    record = {
        "model_key": trial.job.key,
        "attack": trial.attack.name,
        "attack_settings": repr(trial.attack),
        "images_per_class": trial.attack.images_per_class,
        "attack_seconds": time.perf_counter() - started,
        "made": whole(),
    }
    store.save_trial(trial.key, recons, record)


def _of_prior(trial: Trial) -> str:
    return f"{trial.attack_label}: training its prior"


def _model_record(job: Job, trained: Trained) -> dict[str, Any]:
    """Columns of a model: settings, epsilons with unit, adjacency, delta and accountant, diagnostics."""
    return {
        "model": job.model,
        "defense": job.defense.name,
        "label": job.defense.label,
        "strength": job.defense.strength,
        "strength_name": job.defense.strength_field or "",
        "seed": job.seed,
        "unit": job.defense.unit,
        "train_seconds": trained.seconds,
        "diagnostics": trained.diagnostics,
        "remarks": list(job.defense.remarks()),
        **_privacy_columns(job, trained.account),
    }


def _privacy_columns(job: Job, account: Account | None) -> dict[str, Any]:
    private = private_part(job.defense)
    if account is None or private is None:
        nothing = dict.fromkeys(
            ("delta", "sampling_rate", "noise_multiplier", "max_grad_norm", "buckets", "epsilon_theorem1"),
            math.nan,
        )
        epsilons = dict.fromkeys(("epsilon", "epsilon_add_remove", "epsilon_lemma3"), math.inf)
        return {
            **nothing,
            **epsilons,
            "adjacency": "",
            "accountant": "",
            "steps": 0 if job.given else job.recipe.steps,
            "account": "",
        }
    if account.buckets_per_unit > 1:
        raise ValueError(
            f"the account is for a {account.unit} that owns up to {account.buckets_per_unit} buckets, but a study "
            "compares epsilons and bounds of units that own one; use a partition such as Partition.by_column"
        )
    delta = private.delta
    mechanism = poisson(account.ledger.runs[-1][0], "a study")
    headline = account.guarantee(delta)
    return {
        "delta": delta,
        "epsilon": headline.epsilon,
        "adjacency": headline.adjacency,
        "accountant": headline.accountant,
        "epsilon_add_remove": account.guarantee(delta, adjacency="add_remove").epsilon,
        "epsilon_lemma3": account.guarantee(delta, accountant="lemma3").epsilon,
        "epsilon_theorem1": account.guarantee(delta, accountant="theorem1").epsilon
        if len(account.ledger.totals) == 1
        else math.nan,  # it covers one mechanism only; a private extractor had another
        "steps": account.ledger.steps,
        "sampling_rate": mechanism.sampling_rate,
        "noise_multiplier": mechanism.noise_multiplier,
        "max_grad_norm": private.max_grad_norm,
        "buckets": account.buckets,
        "account": account.to_json(),
        **_audit_columns(account, delta, headline.adjacency),
    }


def _audit_columns(account: Account, delta: float, adjacency: Adjacency) -> dict[str, Any]:
    """Columns of an audited model; none without an audit."""
    if not account.findings:
        return {}
    found = account.findings[-1]
    return {
        "audit_lower_bound": found.lower_bound(delta, adjacency),
        "audit_ceiling": found.ceiling.epsilon(delta, adjacency),
        "audit_p_value": found.p_value,
        "audit_canaries": found.canaries,
        "audit_verdict": found.verdict,
    }


def _numbers(
    recons: Reconstructions, split: Split, yardsticks: Yardsticks
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Measurements without an evaluator, for the whole trial and per class.

    Args:
        recons: labelled as in the data set.
        split: the whole data set.
        yardsticks: distances of other images, for every class of the data set.
    """
    distances = metrics.mia_distance(
        recons.images, recons.labels, split.train.images, split.train.labels, kind=split.distance
    )
    # Mean over the images of a class: the attacker does not know which image is the nearest.
    classes, distance = metrics.class_means(distances.values, recons.labels)
    per_class = {
        "class_index": classes,
        "distance": distance,
        **yardsticks.columns(classes, distance),
        "score": metrics.class_means(recons.scores, recons.labels)[1],
        **metrics.added_columns(recons.images, recons.labels, split.train),
    }
    whole = {
        "distance_kind": split.distance,
        "iterations": float(recons.iterations.double().mean()),
        "queries": recons.queries,
        "grad_calls": recons.grad_calls,
        "diverged": int(recons.diverged.sum()),
        "stopped_by": recons.stopped_by or "",
    }
    names = [split.class_names[k] for k in classes.tolist()]
    return whole, {**{name: values.tolist() for name, values in per_class.items()}, "class_name": names}
