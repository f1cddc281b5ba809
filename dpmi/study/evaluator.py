"""The evaluator: a classifier that judges reconstructions, made once per study and separately from every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dpmi import defenses, metrics, models, versions
from dpmi.attacks import Reconstructions
from dpmi.data import Images, ImageSet, Split
from dpmi.data.images import evenly
from dpmi.data.lazy import joined
from dpmi.defenses.augmentation import check_augmentation
from dpmi.key_settings import without_later
from dpmi.metrics.accuracy import BATCH_SIZE
from dpmi.models import Preprocessed, Resized
from dpmi.progress import StageProgress

from . import maker
from .given import check_range
from .grid import Job, hashed
from .spec import EvaluatorSpec
from .store import Store

#: Name of this stage in progress reports.
TRAINING = "training the evaluator"

#: Images per forward pass of an evaluator with a size of its own, which may be many times that of the study's images.
_AT_ONCE = 128

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
    """The evaluator of a job's study, made now unless it is in the store; None if the study has none.

    If several workers need it at once, one makes it and the others wait.

    Raises:
        ValueError: the file of its weights is no longer that of the study's start.
    """
    if job.evaluator is None:
        return None
    key = evaluator_key(job)
    with store.training(key) as missing:
        if missing:
            _make(key, job, split, store, progress)
    progress(TRAINING, 1, 1)
    return _load(store.root, key, job.evaluator, job.device, split)


def evaluator_key(job: Job) -> str:
    """Hash of everything that the evaluator depends on; empty if the study has none."""
    spec = job.evaluator
    if spec is None:
        return ""
    settings = spec.model_dump(exclude={"weights"})
    if spec.training is not None:
        settings["training"] = without_later(spec.training.model_dump())
    packages = models.origins(spec.model)
    return hashed(
        evaluator=versions.EVALUATOR,
        training=versions.TRAINING,
        data=job.data_digest,
        # Fields without a value are of later versions, and leave the keys of earlier ones as they are.
        settings={name: value for name, value in settings.items() if value not in (None, {})},
        **({"packages": packages} if packages else {}),
        **({"weights": job.evaluator_digest} if job.evaluator_digest else {}),
    )


def prepare(spec: EvaluatorSpec, split: Split, target: nn.Module) -> str:
    """Check before any training that the evaluator can judge the images of a study.

    Args:
        spec: the evaluator.
        split: the study's data.
        target: the target before its training, or a checkpoint.

    Returns:
        Digest of its weights if it is trained already; else empty.

    Raises:
        ValueError: the model or the augmentation does not accept images of this shape; or the weights belong to another
            model or to other classes, recognise hardly more of the private test images than guessing does, or are those
            of the target.
    """
    if spec.training is not None:
        untrained(spec, split)
        try:
            check_augmentation(spec.training.augmentation, split.image_shape)
        except ValueError as error:
            raise ValueError(f"evaluator: {error}") from error
        return ""
    assert spec.weights is not None  # the spec requires it
    given = _given(spec, split)
    metrics.check_evaluator(given, target)
    if spec.normalize is None:
        check_range(given, split.test, model="the evaluator", shown="the private test images")
    return models.source_digest(spec.weights, spec.model)


def _make(key: str, job: Job, split: Split, store: Store, progress: StageProgress) -> None:
    spec = job.evaluator
    assert spec is not None  # the caller's
    finished = maker.started(job.device)
    if spec.training is None:
        found = _given(spec, split)
        assert spec.weights is not None  # the spec requires it
        if models.source_digest(spec.weights, spec.model) != job.evaluator_digest:
            raise ValueError(
                f"evaluator.weights {spec.weights} has another content than at the start of the study; run it again"
            )
        found.to(job.device)
    else:
        found = defenses.train(
            defenses.get("none")(),
            untrained(spec, split).to(job.device),
            _training_set(spec, split),
            spec.training.recipe(),
            seed=spec.seed,
            progress=partial(progress, TRAINING),
        ).model
    record = {
        "model": spec.model,
        "classes": _classes(spec, split),
        "test_accuracy": metrics.accuracy(
            found, split.test.images, split.test.labels, batch_size=_at_once(found)
        ),
        "made": finished(),
    }
    store.save_model(key, found, record)


def _given(spec: EvaluatorSpec, split: Split) -> nn.Module:
    """The evaluator that somebody else trained.

    Raises:
        ValueError: the weights belong to another model, or to other classes.
    """
    assert spec.weights is not None  # the callers'
    if spec.classes == "all" and split.labelled_public is None:
        raise ValueError(
            f"evaluator.classes is 'all', but the public images of {split} have no classes; give 'private'"
        )
    found = untrained(spec, split)
    inner = found
    while isinstance(inner, Resized | Preprocessed):
        inner = inner.module
    try:
        left = models.load_weights(inner, spec.weights, name=spec.model)
    except ValueError as error:
        raise ValueError(f"evaluator: {error}") from error
    if left:
        raise ValueError(
            f"evaluator.weights {spec.weights} has another number of classes than {_classes(spec, split)}: {left[0]} "
            f"has another shape. Its classes must be the {split.num_classes} private ones in their order; with classes "
            "= 'all', the public ones follow"
        )
    return found


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
    channels, height, width = split.image_shape
    if spec.size is not None:
        height = width = spec.size
    found = models.build(
        spec.model,
        image_shape=(channels, height, width),
        num_classes=_classes(spec, split),
        seed=spec.seed,
        options=spec.model_options,
    )
    if spec.normalize is not None:
        found = Preprocessed(found, **spec.normalize.model_dump())
    return found if spec.size is None else Resized(found, side=spec.size)


def _classes(spec: EvaluatorSpec, split: Split) -> int:
    public = split.public_class_names if spec.classes == "all" else None
    return split.num_classes + len(public or ())


@lru_cache(maxsize=1)  # most jobs of a worker share the evaluator
def _load(root: Path, key: str, spec: EvaluatorSpec, device: str, split: Split) -> Judge:
    store = Store(root)
    evaluator = untrained(spec, split).eval().requires_grad_(False)
    store.load_weights(key, evaluator)
    evaluator.to(device)
    record = store.model_record(key)
    assert record is not None
    seen = _seen(evaluator, split.train.images)
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
    seen = _seen(judged_by.evaluator, recons.images)
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
    some = some_of_each_class(recons.labels)
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
    seen = _seen(judged_by.evaluator, recons.images)
    return metrics.attack_accuracy(seen.logits, recons.labels).top1


def _seen(evaluator: nn.Module, images: Images) -> metrics.Evaluation:
    return metrics.evaluate(evaluator, images, batch_size=_at_once(evaluator))


def _at_once(evaluator: nn.Module) -> int:
    return _AT_ONCE if isinstance(evaluator, Resized) else BATCH_SIZE


def some_of_each_class(labels: Tensor) -> Tensor:
    """Rows of at most :data:`_COMPARED` images per class, evenly spread; all classes have equally many images."""
    of_class = torch.arange(len(labels)).view(len(set(labels.tolist())), -1)
    return of_class[:, evenly(of_class.shape[1], _COMPARED)].flatten()
