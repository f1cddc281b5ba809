"""Results of a finished or interrupted study: its tables and images, gathered from the store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from dpmi.privacy import Account, Statement

from . import features, maker
from .grid import Trial
from .store import Store
from .study import StudySpec
from .work import model_numbers, trial_numbers

UNKNOWN_PROMISE = "No privacy guarantee is known: the model was given, without an account of its training."
NO_PROMISE = (
    "No privacy guarantee: the training is not differentially private; epsilon is infinite for every unit."
)


@dataclass(frozen=True)
class Results:
    """The trials of one study: two tables, the images, and the study file.

    ``trials`` has one row per finished trial (defence x strength x attack x seed), ``per_class`` one row per
    trial and class. Distances in ``trials`` are means over classes. A column that does not apply is NaN.
    """

    name: str
    """Name of the study."""
    trials: pd.DataFrame
    """One row per finished trial."""
    per_class: pd.DataFrame
    """One row per trial and class; column ``trial`` joins it to ``trials``."""
    recons: Mapping[str, np.ndarray]
    """Trial id -> reconstructions (K, C, H, W), float32 in [0, 1], one per row of ``per_class`` and in its order."""
    examples: np.ndarray
    """(K, C, H, W): one training image per class of the data set."""
    class_names: tuple[str, ...]
    """Names of the K classes."""
    statements: Mapping[str, str]
    """Trial id -> privacy statement of its model, as plain text or Markdown."""
    planned: int
    """Number of trials in the study file; an interrupted study has fewer rows."""
    spec_toml: str
    """Text of the study file."""
    command: str
    """The command that reruns the study."""
    given: bool = False
    """Whether the model was given, a checkpoint, and not trained by the study."""
    matched_on: str | None = None
    """Target on which the strengths were matched, such as "accuracy 0.97"; None if the user chose them."""

    @property
    def pictured(self) -> bool:
        """Whether the records are pictures; a row of a table is an image of height 1."""
        return bool(self.examples.shape[2] > 1)


def gather(spec: StudySpec, store: Store) -> Results:
    """Gather the results of all complete trials, also of an interrupted study, and save the tables.

    Raises:
        StoreError: the study stopped before it had loaded its data, or a file of the folder is damaged.
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
        recons[trial.key] = _in_class_order(store.recons(trial.key), trial, len(class_names))
        statements[trial.key] = statement(
            found.pop("account"), found["delta"], spec.not_accounted, public_parts(trial, store)
        )
        if spec.checkpoint is not None:
            statements[trial.key] = UNKNOWN_PROMISE
        adaptation = "" if trial.adaptation is None else trial.adaptation.name
        names = {"label": trial.job.setting, "attack": trial.attack_label, "adaptation": adaptation}
        means = table.drop(columns=["trial", "class_index", "class_name"]).mean()
        audited = {} if spec.audit is None else {"audit_verdict": found.pop("audit_verdict", "")}
        rows.append({"trial": trial.key, "data": spec.data.name, **found, **audited, **names, **means})
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
        given=spec.checkpoint is not None,
        matched_on=spec.matched_on,
    )
    if rows:
        store.save_tables(results.trials, results.per_class)
    return results


def _whole(trial: Trial, store: Store) -> dict[str, Any] | None:
    """The columns of a trial's row; None if the trial is not complete."""
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


def public_parts(trial: Trial, store: Store) -> tuple[str, ...]:
    """Where the extractor of a trial's model comes from; nothing if the study has no features."""
    if trial.job.features is None:
        return ()
    record = store.model_record(features.trunk_key(trial.job)) or {}
    return (str(record["provenance"]),) if record else ()


def _in_class_order(recons: np.ndarray, trial: Trial, classes: int) -> np.ndarray:
    """Return reconstructions, stored in the order of the target's labels, in ascending order of their classes."""
    if trial.job.roles is None:
        return recons
    private = np.array(trial.job.roles.roles(classes).private)
    return recons[np.argsort(private[trial.attacked(len(private))])]


@lru_cache(maxsize=256)  # trials on one model share its account
def statement(
    account: str, delta: float, not_accounted: tuple[str, ...], public_parts: tuple[str, ...] = ()
) -> str:
    """The privacy statement of a stored model in Markdown.

    Args:
        account: JSON of :meth:`dpmi.privacy.Account.to_json`; empty for a model without a guarantee.
        delta: delta of the guarantee.
        not_accounted: uses of the private records that no epsilon covers, one text each.
        public_parts: parts of the model that no private record trained, one text each.
    """
    if not account:
        return NO_PROMISE
    return Statement(
        accounts=(Account.from_json(account),),
        delta=delta,
        not_accounted=not_accounted,
        public_parts=public_parts,
    ).markdown()
