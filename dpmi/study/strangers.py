"""Strangers: face recognisers from the user's files, which judge reconstructions beside the evaluator of a study."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dpmi import metrics
from dpmi.attacks import Reconstructions
from dpmi.data import Split
from dpmi.data.roles import Roles
from dpmi.metrics.strangers import Stranger, class_similarities, load_stranger, type_one_errors
from dpmi.metrics.strangers.networks import check_channels

from .grid import Job, hashed
from .linkage import Columns
from .spec import StrangersSpec


@dataclass(frozen=True, eq=False)
class Member:
    """A stranger and its features of the private training images, computed once for all trials."""

    stranger: Stranger
    features: Tensor
    labels: Tensor
    accuracy: float


def prepare(spec: StrangersSpec, split: Split) -> str:
    """Check before any training that the files are those networks, and that they take images of this shape.

    Returns:
        Digest of the content of the files.

    Raises:
        ValueError: they are not, or a package is missing.
    """
    channels, height, _ = split.image_shape
    try:
        check_channels(channels)
        if height == 1:
            raise ValueError("strangers judge pictures of faces, and a row of a table is none")
        return _digest(_loaded(spec))
    except (ValueError, ImportError) as error:
        raise ValueError(f"strangers: {error}") from error


def _loaded(spec: StrangersSpec) -> list[Stranger]:
    return [load_stranger(name, path) for name, path in spec.model_dump(exclude_none=True).items()]


def _digest(found: list[Stranger]) -> str:
    return hashed(**{each.name: each.digest for each in found})


def panel(job: Job, split: Split) -> tuple[Member, ...]:
    """The strangers of a job's study; none without the table ``strangers``.

    Raises:
        ValueError: the files are no longer those of the study's start.
    """
    return () if job.strangers is None else _panel(job.strangers, job.strangers_digest, split)


@lru_cache(maxsize=1)  # all trials of a study share it
def _panel(spec: StrangersSpec, digest: str, split: Split) -> tuple[Member, ...]:
    found = _loaded(spec)
    if _digest(found) != digest:
        raise ValueError(
            f"strangers: {', '.join(spec.model_dump(exclude_none=True).values())} have another content than at the "
            "start of the study; run it again"
        )
    return tuple(_member(each, split) for each in found)


def _member(stranger: Stranger, split: Split) -> Member:
    features, labels = stranger.features(split.train.images), split.train.labels
    held_out = stranger.features(split.test.images)
    similarities = class_similarities(held_out, split.test.labels, features, labels, range(split.num_classes))
    accuracy = metrics.attack_accuracy(similarities, split.test.labels).mean
    return Member(stranger, features, labels, accuracy)


def columns(
    recons: Reconstructions,
    members: tuple[Member, ...],
    split: Split,
    *,
    roles: Roles | None,
    own: Tensor | None,
) -> Columns:
    """Measure reconstructions with the strangers, among all classes, or the private classes and decoys of a target.

    Args:
        recons: labelled as in the data set, classes in ascending order.
        members: at least one.
        split: the whole data set.
        roles: the private classes and the decoys; None if all classes are private.
        own: bool, whether the study's own evaluator assigns each to its class; None if it has none.
    """
    candidates = list(range(split.num_classes)) if roles is None else sorted((*roles.private, *roles.decoys))
    place = {label: index for index, label in enumerate(candidates)}
    labels = torch.tensor([place[label] for label in recons.labels.tolist()])
    whole = {"strangers_chance": 1 / len(candidates)}
    per_image: dict[str, Tensor] = {}
    accepted = []
    for member in members:
        name, features = member.stranger.name, member.stranger.features(recons.images)
        found = features, recons.labels, member.features, member.labels
        similarities = class_similarities(*found, candidates)
        assigned = metrics.attack_accuracy(similarities, labels)
        accepted.append(assigned.top1)
        whole[f"attack_accuracy_top5_{name}"] = assigned.mean_top5
        whole[f"evaluator_accuracy_{name}"] = member.accuracy
        per_image |= {
            f"attack_accuracy_{name}": assigned.top1.double(),
            f"delta_face_{name}": metrics.knn_distance(*found).values,
            f"feature_distance_{name}": metrics.feature_distance(*found),
        }
        if roles is not None:
            identified = metrics.identification(similarities, labels, [place[each] for each in roles.decoys])
            per_image |= {
                f"identified_{part}_{name}": getattr(identified, part) for part in ("decoy", "gain")
            }
    nothing = torch.full_like(labels, math.nan, dtype=torch.float64)
    both = accepted[0] ^ accepted[1] if len(accepted) == 2 else nothing
    per_image["strangers_disagreement"] = both.double()
    per_image["type_one_errors"] = nothing if own is None else type_one_errors(own, accepted).double()
    return whole, {
        name: metrics.class_means(values, recons.labels)[1].tolist() for name, values in per_image.items()
    }
