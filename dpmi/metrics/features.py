"""Features of an evaluator, and the distances of reconstructions in feature space.

The evaluator is a classifier trained apart from the target (:func:`dpmi.metrics.check_evaluator`). The features are the
inputs of its last linear layer. The published distances differ only in the evaluator: KNN distance uses the classifier
that measures attack accuracy, delta_eval an Inception-v3, delta_face a FaceNet trained on VGGFace2. All of them are
:func:`knn_distance` of that network's features. For a network with another image size, add a resize:
``nn.Sequential(nn.Upsample(size=(160, 160), mode="bilinear"), net)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpmi.data import Images, blocks
from dpmi.models import FEATURES, evaluating, observe, seeded
from dpmi.models.modes import Gathered

from .accuracy import BATCH_SIZE
from .distance import Distances, check_images, class_members
from .neighbors import nearest_neighbors

_SEED = 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outputs of an evaluator for images, on the CPU.

    Args:
        logits: float32 (n, K).
        features: float32 (n, d), the input of its last linear layer.

    >>> evaluator = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))
    >>> seen = evaluate(evaluator, torch.rand(3, 1, 8, 8))
    >>> seen.logits.shape, seen.features.shape
    (torch.Size([3, 5]), torch.Size([3, 16]))
    """

    logits: Tensor
    features: Tensor


def evaluate(evaluator: nn.Module, images: Images, *, batch_size: int = BATCH_SIZE) -> Evaluation:
    """Return the evaluator's logits and features of images, which are neither rescaled nor rounded.

    The evaluator runs in evaluation mode; its mode is restored afterwards. An evaluator that draws noise always uses
    the same seed.

    Args:
        evaluator: maps images (n, C, H, W) to logits (n, K); its last linear layer is its head.
        images: float32 (n, C, H, W) in [0, 1], n at least 1.
        batch_size: images per forward pass.

    Raises:
        ValueError: the images have another shape or range, the evaluator has no linear layer, or logits or features
            are not finite.
    """
    check_images("images", images)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    device = next((p.device for p in evaluator.parameters()), images.device)
    logits, features = Gathered(len(images)), Gathered(len(images))
    with (
        evaluating(evaluator),
        seeded(evaluator, _SEED),
        torch.no_grad(),
        observe(evaluator, (FEATURES,)) as found,
    ):
        for batch in blocks(images, batch_size):
            logits.add(evaluator(batch.to(device)).cpu())
            features.add(found[FEATURES].flatten(1).cpu())
    seen = Evaluation(logits.whole, features.whole)
    if not bool(seen.logits.isfinite().all() and seen.features.isfinite().all()):
        raise ValueError(
            "evaluator returns logits or features that are not finite; check that its training converged"
        )
    return seen


def knn_distance(
    features: Tensor, labels: Tensor, private_features: Tensor, private_labels: Tensor
) -> Distances:
    """Return the SQUARED L2 distance of each reconstruction to the nearest private image of its class, in features.

    All published values are squared. A smaller distance means a more successful attack.

    Args:
        features: (R, d) of reconstructions, as returned by :func:`evaluate`.
        labels: int64 (R,), the attacked class of each.
        private_features: (N, d) of the target's training images.
        private_labels: int64 (N,).

    Raises:
        ValueError: the shapes do not fit, features are not finite, or a class has no private images.

    >>> private = torch.tensor([[0.0], [4.0], [1.0]])
    >>> found = knn_distance(torch.tensor([[1.0]]), torch.tensor([0]), private, torch.tensor([0, 0, 1]))
    >>> found.values, found.nearest
    (tensor([1.], dtype=torch.float64), tensor([0]))
    """
    check_features(features, labels, private_features, private_labels)
    values = torch.full((len(features),), torch.nan, dtype=torch.float64)
    index = torch.zeros(len(features), dtype=torch.int64)
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0]
        members = class_members(private_labels, label)
        distance, index[rows] = nearest_neighbors(features[rows], private_features, members)
        values[rows] = distance.square()
    return Distances(values=values, nearest=index)


def feature_distance(
    features: Tensor, labels: Tensor, private_features: Tensor, private_labels: Tensor
) -> Tensor:
    """Return the SQUARED L2 distance of each reconstruction to the mean private features of its class.

    Arguments and errors are those of :func:`knn_distance`.

    Returns:
        float64 (R,), the sum over features; published values are the mean over features.

    >>> private = torch.tensor([[0.0], [4.0], [1.0]])
    >>> features, labels = torch.tensor([[1.0]]), torch.tensor([0])
    >>> feature_distance(features, labels, private, torch.tensor([0, 0, 1]))  # to their mean, 2
    tensor([1.], dtype=torch.float64)
    """
    check_features(features, labels, private_features, private_labels)
    values = torch.full((len(features),), torch.nan, dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0]
        centroid = private_features[class_members(private_labels, label)].mean(dim=0, dtype=torch.float64)
        values[rows] = (features[rows] - centroid).square().sum(dim=1)
    return values


def check_features(
    features: Tensor, labels: Tensor, private_features: Tensor, private_labels: Tensor
) -> None:
    """Raise a ValueError unless features are finite (n, d), n at least 1, with equal d, and labels int64 (n,)."""
    for name, values, classes in (
        ("features", features, labels),
        ("private_features", private_features, private_labels),
    ):
        if values.ndim != 2 or values.numel() == 0:
            raise ValueError(f"{name} must be (n, d) with n at least 1; got shape {tuple(values.shape)}")
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} must be finite; check that the training of the evaluator converged")
        if classes.dtype != torch.int64 or classes.shape != values.shape[:1]:
            raise ValueError(
                f"the labels of {name} must be int64 of shape ({len(values)},); "
                f"got {classes.dtype} of shape {tuple(classes.shape)}"
            )
    if features.shape[1] != private_features.shape[1]:
        raise ValueError(
            f"features and private_features must come from one network; "
            f"they have {features.shape[1]} and {private_features.shape[1]} values per image"
        )
