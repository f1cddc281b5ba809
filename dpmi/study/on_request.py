"""Measurements that a study asks for, because they need weights of others or a training of their own."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import nn

from dpmi import metrics, models
from dpmi.attacks import Reconstructions
from dpmi.data import Split

from .evaluator import some_of_each_class
from .grid import Job
from .linkage import Columns
from .spec import KnowledgeSpec


def prepare(knowledge: KnowledgeSpec | None, *, lpips: bool, split: Split) -> None:
    """Check before any training that the images of a study can be measured.

    Args:
        knowledge: the student; None if there is none.
        lpips: whether LPIPS is measured.
        split: the study's data.

    Raises:
        ValueError: the student does not accept images of this shape; or LPIPS does not, or lacks its weights.
    """
    some, labels = split.train.images[:1], split.train.labels[:1]
    if lpips:
        try:
            metrics.lpips_distance(some, labels, some, labels, network=_lpips_network())
        except ValueError as error:
            raise ValueError(f"lpips: {error}") from error
    if knowledge is not None:
        try:
            with torch.no_grad():
                _student(knowledge, split, split.num_classes).eval()(some)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"knowledge.model {knowledge.model!r}: {error}") from error


def columns(recons: Reconstructions, job: Job, split: Split) -> Columns:
    """Measure what the study asks for.

    Args:
        recons: labelled as in the data set, classes in ascending order, equally many of each.
        job: the study's settings.
        split: the whole data set.
    """
    whole: dict[str, float] = {}
    per_class: dict[str, list[float]] = {}
    if job.lpips:
        some = some_of_each_class(recons.labels)
        images, labels = recons.images[some], recons.labels[some]
        private = split.train.images, split.train.labels
        found = metrics.lpips_distance(images, labels, *private, network=_lpips_network())
        per_class["lpips"] = metrics.class_means(found.values, labels)[1].tolist()
    if job.knowledge is not None:
        whole |= _knowledge(recons, job.knowledge, split, device=job.device)
    return whole, per_class


def _knowledge(
    recons: Reconstructions, spec: KnowledgeSpec, split: Split, *, device: str
) -> dict[str, float]:
    """Accuracies of the student on private images of the attacked classes; NaN if its training diverged."""
    attacked = torch.unique(recons.labels)
    place = torch.full((split.num_classes,), -1)
    place[attacked] = torch.arange(len(attacked))
    private = (part.cut(place[part.labels] >= 0) for part in (split.train, split.test))
    train, test = (type(part)(part.images, place[part.labels]) for part in private)
    try:
        found = metrics.knowledge_extraction(
            _student(spec, split, len(attacked)).to(device),
            recons.images,
            place[recons.labels],
            train,
            test,
            epochs=spec.epochs,
            batch_size=spec.batch_size,
            learning_rate=spec.learning_rate,
            seed=spec.seed,
        )
    except FloatingPointError:
        return {"knowledge": math.nan, "knowledge_test": math.nan}
    return {"knowledge": found.train, "knowledge_test": found.test}


def _student(spec: KnowledgeSpec, split: Split, classes: int) -> nn.Module:
    return models.build(spec.model, image_shape=split.image_shape, num_classes=classes, seed=spec.seed)


_lpips_network = cache(metrics.lpips_network)
