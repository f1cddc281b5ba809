"""One model of a study, as it could be released: its trials, its account and the hashes of what it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpmi.privacy import Account

from .grid import Job
from .results import Results, gather, public_parts
from .store import Store, StoreError
from .study import StudySpec


@dataclass(frozen=True, kw_only=True)
class Released:
    """One model of a study.

    Attributes:
        results: its trials alone; an adaptive attack has the name of its adaptation behind its own.
        setting, seed: what tells it from the other models of the study.
        account: of its training; None if it has none.
        delta: of its guarantee; NaN without an account.
        not_accounted: uses of the private records that no epsilon covers, one text each.
        public_parts: parts that no private record trained, one text each.
        trained: when its training ended, ISO 8601 in UTC; empty for a given model.
        hashes: what -> SHA-256, of the file of weights and of what it was computed from.
    """

    results: Results
    setting: str
    seed: int
    account: Account | None
    delta: float
    not_accounted: Sequence[str]
    public_parts: Sequence[str]
    trained: str
    hashes: Mapping[str, str]


def released(
    spec: StudySpec, store: Store, *, setting: str | None = None, seed: int | None = None
) -> Released:
    """Return one model of a finished study.

    Args:
        spec: the study.
        store: its folder.
        setting: name of the defence with its strength, as in the tables of the study; None if it has a single one.
        seed: seed of the model; None if the setting has a single one.

    Raises:
        StoreError: the study is not finished, or a file of its folder is damaged.
        ValueError: no model, or more than one, has this setting and seed; the message lists those that there are.
    """
    results = gather(spec, store)
    if len(results.trials) < results.planned:
        raise StoreError(
            f"{store.root} is an unfinished study ({len(results.trials)} of {results.planned} trials); finish it "
            f"first: {results.command}"
        )
    job = _picked(spec.jobs_on(store.content()), setting, seed)
    record = store.model_record(job.key)
    if record is None:
        raise StoreError(f"{store.root / 'models' / job.key} is damaged; run the study again")
    return Released(
        results=_of(results, job),
        setting=job.setting,
        seed=job.seed,
        account=Account.from_json(record["account"]) if record["account"] else None,
        delta=record["delta"],
        not_accounted=spec.not_accounted,
        public_parts=public_parts(job.trials[0], store),
        trained="" if job.given else record["made"]["date"],
        hashes=_hashes(job, store),
    )


def _picked(jobs: Sequence[Job], setting: str | None, seed: int | None) -> Job:
    left = jobs
    for name, given in (("setting", setting), ("seed", seed)):
        there = list(dict.fromkeys(getattr(job, name) for job in left))
        if given is None and len(there) > 1:
            raise ValueError(
                f"the study has models of {len(there)} {name}s; pick one with --{name}: {_list(there)}"
            )
        if given is not None and given not in there:
            raise ValueError(f"--{name} is {given!r}, which the study does not have; it has {_list(there)}")
        left = [job for job in left if given is None or getattr(job, name) == given]
    return left[0]


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(repr, values))


def _of(results: Results, job: Job) -> Results:
    trials = results.trials[results.trials["model_key"] == job.key]
    adapted = trials["adaptation"] != ""
    names = trials["attack"].where(~adapted, trials["attack"] + ", " + trials["adaptation"])
    return dataclasses.replace(
        results,
        trials=trials.assign(attack=names),
        per_class=results.per_class[results.per_class["trial"].isin(trials["trial"])],
        planned=len(trials),
    )


def _hashes(job: Job, store: Store) -> dict[str, str]:
    content = store.content()
    if job.given:
        weights = {f"file of weights, {job.weights}": content.weights}
    else:
        path = store.weights(job.key)
        weights = {
            f"file of weights, {path.relative_to(store.root)}": store.weights_digest(job.key),
            "initial weights": content.weights,
        }
    others = {
        "content of the data set": content.data,
        "public extractor": content.features,
        "evaluator": content.evaluator,
        "strangers": content.strangers,
        "study file": hashlib.sha256(store.spec_text.encode()).hexdigest(),
    }
    return {name: value for name, value in {**weights, **others}.items() if value}
