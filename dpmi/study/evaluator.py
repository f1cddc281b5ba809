"""The evaluator: a classifier that judges reconstructions, trained once per study and separately from every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dpmi import defenses, metrics, models, versions
from dpmi.attacks import Reconstructions
from dpmi.data import ImageSet, Split
from dpmi.data.images import evenly
from dpmi.data.lazy import joined
from dpmi.defenses import Recipe
from dpmi.progress import StageProgress

from . import maker
from .grid import Job, hashed, without_later
from .spec import EvaluatorSpec
from .store import Store

#: Name of this stage in progress reports.
TRAINING = "training the evaluator"

#: Side of the SSIM window in pixels; smaller images have no SSIM.
_SSIM_WINDOW = 11

#: Reconstructions per class for SSIM and PSNR. Each is compared with every private image of the class, which is slow,
#: and a mean over a hundred draws of one distribution is hardly more informative than a mean over ten.
_COMPARED = 10


@dataclass(frozen=True, eq=False)
class Judge:
    """A trained evaluator and its features of the private training images, computed once for all trials."""

    evaluator: nn.Module
    features: Tensor
    labels: Tensor
    name: str
    accuracy: float

    @cached_property
    def gaussian(self) -> metrics.Gaussian:
        """Mean and covariance of the features."""
        return metrics.Gaussian.of(self.features)

    @cached_property
    def balls(self) -> Tensor:
        """Radii of the private manifold."""
        return metrics.balls(self.features, self.labels)


def judge(job: Job, split: Split, store: Store, progress: StageProgress) -> Judge | None:
    """The evaluator of a job's study, trained now unless it is in the store; None if the study has none.

    If several workers need it at once, one trains it and the others wait.
    """
    if job.evaluator is None:
        return None
    key = evaluator_key(job)
    with store.training(key) as missing:
        if missing:
            _train(key, job.evaluator, split, store, progress)
    progress(TRAINING, 1, 1)
    return _load(store.root, key, job.evaluator, split)


def evaluator_key(job: Job) -> str:
    """Hash of everything that the evaluator depends on; empty if the study has none."""
    if job.evaluator is None:
        return ""
    return hashed(
        evaluator=versions.EVALUATOR,
        training=versions.TRAINING,
        data=job.data_digest,
        settings={
            **job.evaluator.model_dump(),
            "training": without_later(job.evaluator.training.model_dump()),
        },
    )


def _train(key: str, spec: EvaluatorSpec, split: Split, store: Store, progress: StageProgress) -> None:
    data = _training_set(spec, split)
    finished = maker.started()
    trained = defenses.train(
        defenses.get("none")(),
        untrained(spec, split),
        data,
        Recipe(**spec.training.model_dump()),
        seed=spec.seed,
        progress=partial(progress, TRAINING),
    )
    record = {
        "model": spec.model,
        "classes": int(data.labels.max()) + 1,
        "test_accuracy": metrics.accuracy(trained.model, split.test.images, split.test.labels),
        "made": finished(),
    }
    store.save_model(key, trained.model, record)


def _training_set(spec: EvaluatorSpec, split: Split) -> ImageSet:
    """The private images, plus the public images as additional classes if ``classes`` is "all"."""
    public = split.labelled_public
    if spec.classes == "private" or public is None:
        return split.train
    return ImageSet(
        joined(split.train.images, public.images),
        torch.cat([split.train.labels, public.labels + split.num_classes]),
    )


def untrained(spec: EvaluatorSpec, split: Split) -> nn.Module:
    """The evaluator before its training.

    Raises:
        ValueError: the model does not accept images of this shape.
    """
    classes = split.num_classes
    if spec.classes == "all" and split.public_class_names is not None:
        classes += len(split.public_class_names)
    return models.build(spec.model, image_shape=split.image_shape, num_classes=classes, seed=spec.seed)


@lru_cache(maxsize=1)  # most jobs of a worker share the evaluator
def _load(root: Path, key: str, spec: EvaluatorSpec, split: Split) -> Judge:
    store = Store(root)
    evaluator = untrained(spec, split).eval().requires_grad_(False)
    store.load_weights(key, evaluator)
    record = store.model_record(key)
    assert record is not None
    seen = metrics.evaluate(evaluator, split.train.images)
    return Judge(evaluator, seen.features, split.train.labels, spec.model, float(record["test_accuracy"]))


def columns(
    recons: Reconstructions, judged_by: Judge, target: nn.Module, split: Split, *, decoys: Sequence[int] = ()
) -> tuple[dict[str, str | float], dict[str, list[float]]]:
    """Measure reconstructions with the evaluator, for the whole trial and per class.

    Args:
        recons: one or more per class, classes in ascending order.
        judged_by: the evaluator.
        target: the attacked model; it must not be the evaluator.
        split: the study's data.
        decoys: the classes that trained nothing, in a study with linkage.

    Returns:
        Columns of the trial, and columns with one number per class.

    Raises:
        ValueError: the evaluator is the target.
    """
    metrics.check_evaluator(judged_by.evaluator, target)
    seen = metrics.evaluate(judged_by.evaluator, recons.images)
    found = metrics.attack_accuracy(seen.logits, recons.labels)
    private = judged_by.features, judged_by.labels
    per_image = {
        "attack_accuracy": found.top1.double(),
        "knn_distance": metrics.knn_distance(seen.features, recons.labels, *private).values,
        "feature_distance": metrics.feature_distance(seen.features, recons.labels, *private),
    }
    if decoys:
        identified = metrics.identification(seen.logits, recons.labels, decoys)
        per_image |= {f"identified_{name}": getattr(identified, name) for name in ("own", "decoy", "gain")}
    per_class = {name: metrics.class_means(value, recons.labels)[1] for name, value in per_image.items()}
    some = _some_of_each_class(recons.labels)
    pixels = recons.images[some], recons.labels[some], split.train.images, split.train.labels
    per_class["psnr"] = metrics.class_means(metrics.best_psnr(*pixels), recons.labels[some])[1]
    if min(split.image_shape[1:]) >= _SSIM_WINDOW:
        per_class["ssim"] = metrics.class_means(metrics.best_ssim(*pixels), recons.labels[some])[1]
    own = torch.isin(judged_by.labels, recons.labels)  # in a study with linkage, the others are decoys
    gaussian = judged_by.gaussian if bool(own.all()) else metrics.Gaussian.of(judged_by.features[own])
    distance = metrics.fid(seen.features, gaussian, feature_net=judged_by.name)
    whole: dict[str, str | float] = {
        "evaluator": judged_by.name,
        "attack_accuracy_top5": found.mean_top5,
        "attack_accuracy_worst": float(per_class["attack_accuracy"].max()),
        "fid": distance.value,
        "evaluator_accuracy": judged_by.accuracy,
        **metrics.manifolds(seen.features, recons.labels, *private, private_balls=judged_by.balls).means(),
    }
    return whole, {name: value.tolist() for name, value in per_class.items()}


def accepts(recons: Reconstructions, judged_by: Judge) -> Tensor:
    """Whether the evaluator assigns each reconstruction to its class, bool (R,)."""
    seen = metrics.evaluate(judged_by.evaluator, recons.images)
    return metrics.attack_accuracy(seen.logits, recons.labels).top1


def _some_of_each_class(labels: Tensor) -> Tensor:
    """Rows of at most :data:`_COMPARED` images per class, evenly spread; all classes have equally many images."""
    of_class = torch.arange(len(labels)).view(len(set(labels.tolist())), -1)
    return of_class[:, evenly(of_class.shape[1], _COMPARED)].flatten()
