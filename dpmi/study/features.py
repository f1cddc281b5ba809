"""The public extractor of a study: made once, stored in the study's folder, and shared by all its models."""

from __future__ import annotations

import copy
import hashlib
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

from dpmi import data, versions
from dpmi.by_name import imported
from dpmi.data import ImageSet, Split, blocks
from dpmi.data.images import digests, evenly
from dpmi.data.lazy import joined
from dpmi.data.open_image import open_image
from dpmi.data.public_set import reshaped, shaped
from dpmi.data.stored_images import collected
from dpmi.models.features import (
    Extractor,
    FeatureClassifier,
    Provenance,
    PublicCnn,
    PublicStatistics,
    PublicTraining,
    efficientnet_lite0,
    faceres_features,
    mirrored,
    scattering,
    torchvision_features,
    train_public_cnn,
)
from dpmi.progress import Progress, StageProgress

from . import maker
from .grid import Job, hashed
from .spec import FeaturesSpec
from .store import Store

#: Name of this stage in progress reports.
TRAINING = "training the extractor"

MOST_PUBLIC = 5000
"""Public images whose features give mean and scale."""

_PUBLIC, _SCATTER, _LITE, _FACERES, _TORCHVISION, _FOLDER = (
    "public",
    "scatter",
    "efficientnet-lite0",
    "faceres",
    "torchvision:",
    "folder:",
)


class Trunk(nn.Module):
    """A frozen extractor with its public statistics: everything of a model but its trained head."""

    def __init__(self, extractor: Extractor, statistics: PublicStatistics) -> None:
        super().__init__()
        self.extractor = extractor
        self.statistics = statistics
        self.cache: Path | None = None
        """Folder for the features of whole data sets; None computes them anew."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (d, 1, 1) of what a head takes."""
        return self.statistics.size, 1, 1

    def under(self, top: nn.Module) -> FeatureClassifier:
        """Return the classifier with this head, which maps (n, d, 1, 1) to logits."""
        own = copy.deepcopy(self)  # loading weights into one classifier must not change another
        return FeatureClassifier(own.extractor, own.statistics, top, cache=self.cache)


def prepare(spec: FeaturesSpec, split: Split, root: str | None) -> str:
    """Check before any training that the extractor can be made for these images, and saw none of them.

    Returns:
        A hash of everything that the study's extractors depend on but their seeds: settings, code, content.

    Raises:
        ValueError, FileNotFoundError: it cannot, or it did; the message says why and what to do.
    """
    if len(split.public) == 0:
        raise ValueError(f"features need public images, for their mean and scale; {split} has none")
    found, trained_on = blank(spec, split.image_shape), _labelled(spec, split, root)
    _check_private(found.extractor, spec, trained_on, split)
    _statistics(spec, found.extractor, split)
    if trained_on is None:
        content = found.extractor.digest
    else:
        digest = hashlib.sha256()
        for block in blocks(trained_on.images):
            digest.update(block.numpy().tobytes())
        digest.update(trained_on.labels.numpy().tobytes())
        content = digest.hexdigest()
    public, labels = _public(spec, split)
    statistics = hashlib.sha256(public.numpy().tobytes())
    if labels is not None:
        statistics.update(labels.numpy().tobytes())
    settings = spec.model_copy(update={"seed": 0}).described
    account = found.extractor.provenance.account
    return hashed(
        features=versions.FEATURES,
        settings=settings,
        content=content,
        statistics=statistics.hexdigest(),
        **({} if account is None else {"account": account.to_json()}),
    )


def trunk_key(job: Job) -> str:
    """Return the key of a job's trunk in the store; empty if the study has no features."""
    if job.features is None:
        return ""
    return hashed(features=job.features_digest, seed=job.features.seed)


def trunk(job: Job, split: Split, store: Store, *, root: str | None, progress: StageProgress) -> Trunk | None:
    """The trunk of a study's models, made now unless it is in the store; None if the study has no features.

    If several workers need it at once, one makes it and the others wait.

    Args:
        job: any job of the study.
        split: the whole data set.
        store: receives the trunk.
        root: the data root.
        progress: called with the stage, updates done, and all updates.

    Raises:
        As :func:`prepare`.
    """
    if job.features is None:
        return None
    key = trunk_key(job)
    with store.training(key) as missing:
        if missing:
            finished = maker.started()
            made = _make(job.features, split, root, partial(progress, TRAINING))
            record = {"provenance": made.extractor.provenance.sentence, "made": finished()}
            store.save_model(key, made, record)
    progress(TRAINING, 1, 1)
    return stored(job, split.image_shape, store)


def stored(job: Job, image_shape: tuple[int, int, int], store: Store) -> Trunk | None:
    """Return the trunk that :func:`trunk` has put into the store; None if the study has no features."""
    if job.features is None:
        return None
    return _stored(job.features, trunk_key(job), image_shape, store.root)


@lru_cache(maxsize=2)  # the models of a study share them
def _stored(spec: FeaturesSpec, key: str, image_shape: tuple[int, int, int], folder: Path) -> Trunk:
    found = blank(spec, image_shape)
    Store(folder).load_weights(key, found)
    found.cache = folder / "features"
    return found


def _make(spec: FeaturesSpec, split: Split, root: str | None, progress: Progress) -> Trunk:
    trained_on = _labelled(spec, split, root)
    network = None
    if trained_on is not None:
        training = _training(spec, split)
        network = train_public_cnn(trained_on.images, trained_on.labels, training, progress=progress)
    extractor = _extractor(spec, split.image_shape, network)
    _check_private(extractor, spec, trained_on, split)
    return Trunk(extractor, _statistics(spec, extractor, split))


def blank(spec: FeaturesSpec, image_shape: tuple[int, int, int]) -> Trunk:
    """Return a trunk of the same shapes whose values do not matter, for checks before the training.

    Raises:
        ValueError: the extractor does not accept such images, or has fewer features than dimensions are asked for.
    """
    extractor = _extractor(spec, image_shape)
    if spec.dimensions is not None and spec.dimensions > extractor.size:
        raise ValueError(
            f"features.dimensions must be at most {extractor.size}, the number of features of {spec.name!r}; got "
            f"{spec.dimensions}"
        )
    generator = torch.Generator().manual_seed(0)
    random = torch.randn((spec.dimensions or 1) + 2, extractor.size, generator=generator)
    return Trunk(extractor, PublicStatistics(random, dimensions=spec.dimensions))


def _extractor(
    spec: FeaturesSpec, image_shape: tuple[int, int, int], network: PublicCnn | None = None
) -> Extractor:
    """Return the extractor with this network; with an untrained one if there is none, and the study trains it."""
    if spec.is_trained:
        found = _of_network(network or PublicCnn(image_shape, spec.size), spec, image_shape)
    else:
        found = _made(spec, image_shape)
    return mirrored(found) if spec.mirrored else found


def _made(spec: FeaturesSpec, image_shape: tuple[int, int, int]) -> Extractor:
    """Return an extractor that the study does not train."""
    if spec.name == _SCATTER:
        return scattering(image_shape, spec.scales)
    if spec.name == _LITE:
        return efficientnet_lite0(image_shape, side=spec.side)
    if spec.name == _FACERES:
        assert spec.weights is not None  # the spec requires it
        return faceres_features(spec.weights, image_shape)
    if spec.name.startswith(_TORCHVISION):
        assert spec.weights is not None  # the spec requires it
        return torchvision_features(
            spec.name.removeprefix(_TORCHVISION), spec.weights, image_shape, side=spec.side
        )
    return _of_function(spec.name, image_shape)


def _of_network(network: PublicCnn, spec: FeaturesSpec, image_shape: tuple[int, int, int]) -> Extractor:
    body = network.maps if spec.maps else network
    return Extractor(body, image_shape=image_shape, provenance=Provenance())


def _of_function(name: str, image_shape: tuple[int, int, int]) -> Extractor:
    try:
        function = imported(name)
    except ValueError as error:
        raise ValueError(f"features {name!r}: {error}") from error
    found = function(image_shape)
    if isinstance(found, Extractor):
        return found
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"features {name!r} must return an Extractor or an nn.Module for image_shape={image_shape}; got "
            f"{type(found).__name__}"
        )
    provenance = Provenance(f"what {name} says", images=None)
    return Extractor(found, image_shape=image_shape, provenance=provenance)


def _check_private(
    extractor: Extractor, spec: FeaturesSpec, trained_on: ImageSet | None, split: Split
) -> None:
    """Give the extractor its provenance, and check that no private image trained it."""
    if trained_on is not None:
        classes = int(trained_on.labels.max()) + 1
        extractor.provenance = Provenance(
            f"{len(trained_on)} public images of {classes} classes ({spec.described['name']})",
            images=frozenset(digests(trained_on.images)),
        )
    extractor.check_private([*digests(split.train.images), *digests(split.test.images)])


def _statistics(spec: FeaturesSpec, extractor: Extractor, split: Split) -> PublicStatistics:
    public, labels = _public(spec, split)
    return PublicStatistics(extractor.extract(public), dimensions=spec.dimensions, labels=labels)


def _public(spec: FeaturesSpec, split: Split) -> tuple[Tensor, Tensor | None]:
    """Return the public images that give mean and scale, and their classes if those choose the directions."""
    rows = evenly(len(split.public), MOST_PUBLIC)
    if spec.directions == "variance":
        return split.public[rows], None
    if split.public_labels is None:
        raise ValueError(
            f"features.directions = 'classes' needs labelled public images; {split} has none with labels; use "
            "'variance'"
        )
    return split.public[rows], split.public_labels[rows]


def _training(spec: FeaturesSpec, split: Split) -> PublicTraining:
    kind = spec.kind
    if kind is None:
        names = (
            split.public_class_names
            if spec.name == _PUBLIC and split.public_class_names
            else (f"{spec.name}/",)
        )
        kind = "characters" if names[0].startswith("omniglot/") else "photographs"
    return PublicTraining(steps=spec.steps, size=spec.size, kind=kind, seed=spec.seed)


def _labelled(spec: FeaturesSpec, split: Split, root: str | None) -> ImageSet | None:
    """Return the labelled images that train the extractor, in the shape of the study's; None if none do."""
    if not spec.is_trained:
        return None
    if spec.name == _PUBLIC:
        if split.labelled_public is None:
            raise ValueError(
                f"features 'public' are trained on labelled public images; {split} has none with labels. Name a data "
                "set, a folder, or 'scatter', which needs none"
            )
        return split.labelled_public
    if spec.name.startswith(_FOLDER):
        return _of_folder(Path(spec.name.removeprefix(_FOLDER)), split.image_shape)
    other = data.load(spec.name, root=root)
    images = reshaped(joined(other.train.images, other.test.images), split.image_shape)
    return ImageSet(images, torch.cat([other.train.labels, other.test.labels]))


def _of_folder(folder: Path, image_shape: tuple[int, int, int]) -> ImageSet:
    """Read a folder with one subfolder per class."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"features folder {folder} does not exist; give a folder with one subfolder per class"
        )
    found = ImageFolder(str(folder))
    images = collected(
        len(found.samples),
        image_shape,
        lambda row: _pixels(Path(found.samples[row][0]), image_shape).numpy(),
        dtype=np.float32,
    )
    return ImageSet(images, torch.tensor([label for _, label in found.samples]))


def _pixels(path: Path, image_shape: tuple[int, int, int]) -> Tensor:
    image = open_image(path, "L" if image_shape[0] == 1 else "RGB")
    bytes_ = torch.tensor(bytearray(image.tobytes()), dtype=torch.uint8)
    whole = bytes_.view(image.height, image.width, -1).permute(2, 0, 1)[None].float() / 255
    return shaped(whole, image_shape)[0]
