"""One job of a study: train a model unless it is there, attack it, measure, store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dpmi import data, metrics, models
from dpmi.attacks import Budget, Reconstructions
from dpmi.data import Split
from dpmi.defenses import Trained, train
from dpmi.metrics import Baselines
from dpmi.privacy import Account

from . import evaluation
from .evaluation import Judge
from .jobs import Job, Trial
from .spec import DataSpec
from .store import Store

Progress = Callable[[str, int, int], None]
NO_PROMISE = "No privacy is promised: ordinary training, epsilon is infinite for every unit."


@lru_cache(maxsize=1)  # the jobs of one worker mostly share a data set; more than one would fill the memory
def _load(name: str, options: tuple[tuple[str, Any], ...], root: str | None) -> Split:
    return data.load(name, root=root, **dict(options))


def load(spec: DataSpec, root: str | None) -> Split:
    """The study's data set, kept in memory between the jobs of one process."""
    return _load(spec.name, tuple(sorted(spec.options.items())), root)


def is_complete(job: Job, store: Store) -> bool:
    """Whether the model and all of its trials are in the store."""
    return store.model_record(job.key) is not None and all(
        store.trial_record(trial.key) is not None for trial in job.trials
    )


def train_model(job: Job, store: Store, *, root: str | None, progress: Progress) -> None:
    """Train the model of a job, unless it is in the store.

    Args:
        job: the model.
        store: is written to.
        root: the data root.
        progress: called with what is being done, and how much of how much of it is done.
    """
    if store.model_record(job.key) is None:
        split = load(job.data, root)
        trained = train(
            job.defense,
            untrained_model(job, split),
            split.train,
            job.recipe,
            seed=job.seed,
            public=split.labelled_public,
            progress=partial(progress, "training"),
        )
        store.save_model(job.key, trained.model, _model_record(job, trained, split))
    progress("training", 1, 1)


def run_job(job: Job, store: Store, *, baselines: Baselines, root: str | None, progress: Progress) -> None:
    """Train a model and attack it, as far as that is not in the store.

    Args:
        job: the model and its attacks.
        store: is written to.
        baselines: what an attacker gets without the model, for every class.
        root: the data root.
        progress: called with what is being done, and how much of how much of it is done.
    """
    if is_complete(job, store):
        return
    train_model(job, store, root=root, progress=progress)
    split = load(job.data, root)
    # Attack what was stored, not what is at hand: a resumed study attacks the very same model.
    target = stored_model(job, store, split)
    judge = evaluation.judge(job, split, store, progress)
    for trial in job.trials:
        if store.trial_record(trial.key) is None:
            recons, seconds = _attack(trial, target, split, store, progress)
            record = _trial_record(trial, recons, split, baselines, seconds)
            if judge is not None:
                _add_judgement(record, recons, judge, target, split)
            store.save_trial(trial.key, recons.images[_surest(recons)].numpy(), record)
        if trial.attack.priors():
            progress(_of_prior(trial), 1, 1)
        progress(trial.what, 1, 1)


def untrained_model(job: Job, split: Split) -> nn.Module:
    """The classifier that the training of a job starts from.

    Raises:
        ValueError: the model does not take such images, or the weights to start from are not those of this model.
    """
    model = _fresh_model(job, split)
    if job.weights is not None:
        models.load_weights(model, job.weights, name=job.model)
    return model


def stored_model(job: Job, store: Store, split: Split) -> nn.Module:
    """The trained model of a job that is in the store, in evaluation mode."""
    model = job.defense.build(_fresh_model(job, split)).eval()
    store.load_weights(job.key, model)
    return model


def _fresh_model(job: Job, split: Split) -> nn.Module:
    return models.build(
        job.model, image_shape=split.image_shape, num_classes=split.num_classes, seed=job.seed
    )


@lru_cache(maxsize=256)  # the trials of one model share their account
def statement(account: str, delta: float, not_accounted: tuple[str, ...]) -> str:
    """The privacy statement of a stored model, with what its study says is not accounted, in Markdown.

    Args:
        account: as :meth:`dpmi.privacy.Account.to_json` wrote it; empty where nothing is promised.
        delta: of the guarantee.
        not_accounted: one text each.
    """
    if not account:
        return NO_PROMISE
    return Account.from_json(account).statement(delta, not_accounted=not_accounted).markdown()


def _attack(
    trial: Trial, target: nn.Module, split: Split, store: Store, progress: Progress
) -> tuple[Reconstructions, float]:
    """Reconstruct every class; also the seconds that the search took."""
    knowledge = trial.attack.fit(
        target,
        public=split.public,
        image_shape=split.image_shape,
        folder=store.priors,
        progress=partial(progress, _of_prior(trial)),
    )
    budget = trial.job.budget
    started = time.perf_counter()
    recons = trial.attack.run(
        target,
        torch.arange(split.num_classes),
        image_shape=split.image_shape,
        generator=torch.Generator().manual_seed(trial.job.seed),
        knowledge=knowledge,
        budget=None if budget is None else Budget(**budget.model_dump()),
        adaptation=trial.adaptation,
        progress=partial(progress, trial.what),
    )
    return recons, time.perf_counter() - started


def _of_prior(trial: Trial) -> str:
    return f"{trial.attack_label}: training its prior"


def _surest(recons: Reconstructions) -> Tensor:
    """The row of each class of which the target is surest: the one picture that is shown."""
    scores = recons.scores.view(len(set(recons.labels.tolist())), -1)
    return scores.argmax(dim=1) + torch.arange(len(scores)) * scores.shape[1]


def _model_record(job: Job, trained: Trained, split: Split) -> dict[str, Any]:
    """What the table says about a model; its epsilons always with unit, adjacency, delta, accountant."""
    accuracy = partial(metrics.accuracy, trained.model)
    return {
        "data": job.data.name,
        "model": job.model,
        "defense": job.defense.name,
        "label": job.defense.label,
        "strength": job.defense.strength,
        "strength_name": job.defense.strength_field,
        "seed": job.seed,
        "unit": job.defense.unit,
        "train_accuracy": accuracy(split.train.images, split.train.labels),
        "test_accuracy": accuracy(split.test.images, split.test.labels),
        "train_seconds": trained.seconds,
        "diagnostics": trained.diagnostics,
        "remarks": list(job.defense.remarks()),
        **_privacy_columns(job, trained.account),
    }


def _privacy_columns(job: Job, account: Account | None) -> dict[str, Any]:
    private = job.defense.private
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
            "steps": job.recipe.steps,
            "account": "",
        }
    delta = private.delta
    mechanism, _ = account.ledger.runs[-1]
    headline = account.guarantee(delta)
    return {
        "delta": delta,
        "epsilon": headline.epsilon,
        "adjacency": headline.adjacency,
        "accountant": headline.accountant,
        "epsilon_add_remove": account.guarantee(delta, adjacency="add_remove").epsilon,
        "epsilon_lemma3": account.guarantee(delta, accountant="lemma3").epsilon,
        "epsilon_theorem1": account.guarantee(delta, accountant="theorem1").epsilon,
        "steps": account.ledger.steps,
        "sampling_rate": mechanism.sampling_rate,
        "noise_multiplier": mechanism.noise_multiplier,
        "max_grad_norm": private.max_grad_norm,
        "buckets": account.buckets,
        "account": account.to_json(),
    }


def _trial_record(
    trial: Trial, recons: Reconstructions, split: Split, baselines: Baselines, seconds: float
) -> dict[str, Any]:
    distances = metrics.mia_distance(
        recons.images, recons.labels, split.train.images, split.train.labels, kind=split.distance
    )
    # Of several images of a class the mean: the attacker does not know which of them came nearest.
    classes, distance = metrics.class_means(distances.values, recons.labels)
    advantage = metrics.advantage(distance, baselines)
    oracle = metrics.advantage_over_nearest(distance, baselines)
    per_class = {
        "class_index": classes,
        "distance": distance,
        "distance_blank": baselines.blank,
        "distance_public_mean": baselines.public_mean,
        "distance_public_nearest": baselines.public_nearest,
        "advantage": advantage,
        "advantage_over_nearest": oracle,
        "score": metrics.class_means(recons.scores, recons.labels)[1],
    }
    columns = {name: values.tolist() for name, values in per_class.items()}
    return {
        "model_key": trial.job.key,
        "attack": trial.attack.name,
        "attack_settings": repr(trial.attack),
        "distance_kind": split.distance,
        "iterations": float(recons.iterations.double().mean()),
        "queries": recons.queries,
        "grad_calls": recons.grad_calls,
        "attack_seconds": seconds,
        "images_per_class": trial.attack.images_per_class,
        "diverged": int(recons.diverged.sum()),
        "stopped_by": recons.stopped_by or "",
        "per_class": {**columns, "class_name": list(split.class_names)},
    }


def _add_judgement(
    record: dict[str, Any], recons: Reconstructions, judge: Judge, target: nn.Module, split: Split
) -> None:
    whole, per_class = evaluation.columns(recons, judge, target, split)
    record.update(whole)
    record["per_class"].update(per_class)
