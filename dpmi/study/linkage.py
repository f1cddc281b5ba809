"""Columns of linkage: whether a reconstruction gives away which class trained the target."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from accountants import Ledger, PrivacyProfile, reconstruction_bound
from dpmi import metrics
from dpmi.attacks import Reconstructions
from dpmi.data import Split
from dpmi.data.public_gaussian import PublicGaussian
from dpmi.data.roles import Roles
from dpmi.metrics import SCORERS
from dpmi.privacy import Account

from .grid import Job

Columns = tuple[dict[str, float], dict[str, list[float]]]
"""Columns of the trial, and columns with one number per class, in ascending order of the classes."""


def in_data_set(recons: Reconstructions, roles: Roles | None) -> Reconstructions:
    """Return reconstructions with the labels of the data set instead of the target's, classes in ascending order."""
    if roles is None:
        return recons
    labels = torch.tensor(roles.private)[recons.labels]
    order = labels.argsort(stable=True)
    rows = {name: getattr(recons, name)[order] for name in ("images", "scores", "iterations", "diverged")}
    return Reconstructions(
        **rows,
        labels=labels[order],
        queries=recons.queries,
        grad_calls=recons.grad_calls,
        stopped_by=recons.stopped_by,
    )


def columns(
    recons: Reconstructions, roles: Roles, split: Split, job: Job, *, account: str, unit: str
) -> Columns:
    """Measure the linkage of the reconstructions of one trial, with its chance level and the bounds of its model.

    Args:
        recons: labelled as in the data set.
        roles: the private classes and the decoys.
        split: the whole data set.
        job: the trained model.
        account: JSON of its account; empty without a guarantee.
        unit: unit of its guarantee.
    """
    assert job.linkage is not None
    per_class: dict[str, list[float]] = {}
    for scorer in SCORERS:
        distances = metrics.candidate_distances(
            recons.images,
            recons.labels,
            split.train.images,
            split.train.labels,
            roles.decoys,
            scorer=scorer,
            public=_public(split),
            kind=split.distance,
        )
        suffix = "" if scorer == job.linkage.scorer else f"_{scorer}"
        found = metrics.linkage(distances)
        per_class |= {
            f"linkage_top1{suffix}": found.top1.tolist(),
            f"linkage_auc{suffix}": found.auc.tolist(),
        }
    bound = bounds(account, unit, roles.candidates, len(roles.private))
    whole = {
        "linkage_chance": 1 / roles.candidates,
        "linkage_bound_top1": bound.top1,
        "linkage_bound_auc": bound.auc,
        "accuracy_bound": bound.accuracy,
        **({} if job.evaluator is None and job.strangers is None else {"identified_bound": bound.gain}),
    }
    return whole, per_class


def columns_among_classes(recons: Reconstructions, split: Split) -> Columns:
    """Measure whether reconstructions of a given model tell its classes apart, without decoys.

    Args:
        recons: labelled as in the data set.
        split: the data set, whose classes are those of the model.
    """
    distances = metrics.distances_among_classes(
        recons.images, recons.labels, split.train.images, split.train.labels, public=_public(split)
    )
    found = metrics.linkage(distances)
    whole = {
        "linkage_chance": 1 / distances.shape[1],
        "linkage_bound_top1": 1.0,
        "linkage_bound_auc": 1.0,
        "accuracy_bound": 1.0,
    }
    return whole, {"linkage_top1": found.top1.tolist(), "linkage_auc": found.auc.tolist()}


@lru_cache(maxsize=1)  # all trials of a study share it
def _public(split: Split) -> PublicGaussian:
    # Without public images, the scorer's whitening is by private ones: it belongs to the auditor, not to the attacker.
    return PublicGaussian.of(split.public if len(split.public) else split.train.images)


class Bounds(NamedTuple):
    """Upper bounds for any attacker and any scorer, on average over the roles; 1 is no bound.

    Args:
        top1: B(1/K), on top-1 linkage among K candidates.
        auc: B(1/2), on the AUC of linkage.
        gain: total variation between the releases of two neighbouring data sets, on the gain of identification.
        accuracy: F(1/P), on the accuracy of a model of P classes. Let c replace class y in label l: y becomes a decoy,
            and the model says l for images of y with probability kappa. With random roles and labels, the mean of kappa
            is exactly 1/P, because the model says one of its P labels. F = 1 - trade-off function is concave, and
            accuracy is at most F(kappa). Without random roles kappa is not 1/P.
    """

    top1: float
    auc: float
    gain: float
    accuracy: float


def bounds(account: str, unit: str, candidates: int, classes: int) -> Bounds:
    """Return the bounds of a model; all are 1 unless the guarantee is for a class.

    Args:
        account: JSON of :meth:`dpmi.privacy.Account.to_json`; empty without a guarantee.
        unit: unit of the guarantee.
        candidates: number K of candidates.
        classes: number P of the model's classes.
    """
    if not account or unit != "class":
        return Bounds(1.0, 1.0, 1.0, 1.0)
    run = Account.from_json(account)
    return _of_ledger(run.ledger, run.buckets_per_unit, candidates, classes)


@lru_cache(maxsize=64)  # the models of all seeds share a ledger, but not the partition of their accounts
def _of_ledger(ledger: Ledger, owned: int, candidates: int, classes: int) -> Bounds:
    top1, auc = reconstruction_bound(ledger, [1 / candidates, 0.5], buckets_per_unit=owned).tolist()
    replaced = PrivacyProfile(ledger=ledger, unit="class", buckets_per_unit=owned)
    return Bounds(top1, auc, float(replaced.delta(0.0)), 1 - float(replaced.trade_off(1 / classes)))
