"""Centring and scaling of features by public statistics only."""

from __future__ import annotations

import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn
from torch.nn import functional

LENGTH = 3.0
"""Length of every feature vector: with it, learning rates of about 1 suit a linear head of any size."""

SMALLEST = 1e-6
"""Directions whose public variance is below this share of the largest are not scaled up."""


SHRINKAGE = 0.3
"""Share of a multiple of the identity in the covariance of a class, which few images leave uncertain; chosen on the
faces of Georgia Tech."""


class PublicStatistics(nn.Module):
    """Maps features (n, d) to vectors of one length, centred by the mean of public features.

    A vector is brought to length 1, the public mean is subtracted, and the rest is brought to length :data:`LENGTH`.
    With ``dimensions``, the rest is first projected on the directions in which public features vary most, each divided
    by its public standard deviation. With ``labels``, too, the directions are those in which public classes differ
    most, compared with the spread inside a class (linear discriminant analysis): what tells some people's faces apart
    tells other people's apart. Nothing private enters.

    Args:
        public: features (M, d) of public images.
        dimensions: number of directions to keep, at most d and below M, and with ``labels`` below the number of public
            classes; None keeps the features as they are.
        labels: the classes (M,) of the public images; None without ``dimensions``.

    Raises:
        ValueError: there are too few public images or classes, or they have all the same features.

    >>> public = torch.rand(50, 6)
    >>> statistics = PublicStatistics(public, dimensions=3)
    >>> vectors = statistics(torch.rand(4, 6))
    >>> statistics.size, vectors.shape, vectors.norm(dim=1).round(decimals=3).tolist()
    (3, torch.Size([4, 3]), [3.0, 3.0, 3.0, 3.0])
    """

    mean: Tensor
    projection: Tensor | None

    def __init__(
        self, public: Tensor, *, dimensions: int | None = None, labels: Tensor | None = None
    ) -> None:
        super().__init__()
        if public.ndim != 2 or len(public) < 2:
            raise ValueError(
                f"public statistics need the features (M, d) of at least 2 public images; got {tuple(public.shape)}"
            )
        vectors = functional.normalize(public.double(), dim=1)
        centred = vectors - vectors.mean(dim=0)
        if float(centred.abs().max()) < SMALLEST:
            raise ValueError(
                f"all {len(public)} public images have the same features, so they tell nothing about scales; take "
                "public images that differ"
            )
        if labels is None:
            projection = None if dimensions is None else _whitening(centred, dimensions)
        elif dimensions is None:
            raise ValueError("labels choose the directions to keep, so dimensions must be given with them")
        else:
            projection = _discriminants(centred, labels, dimensions)
        self.register_buffer("mean", vectors.mean(dim=0).float())
        self.register_buffer("projection", None if projection is None else projection.float())

    @property
    def size(self) -> int:
        """Length d of the vectors that it returns."""
        return len(self.mean) if self.projection is None else int(self.projection.shape[1])

    def forward(self, features: Tensor) -> Tensor:
        """Return vectors (n, d) or (n, dimensions) of length :data:`LENGTH`; a vector at the public mean stays 0."""
        vectors = functional.normalize(features, dim=1) - self.mean
        if self.projection is not None:
            vectors = vectors @ self.projection
        return LENGTH * functional.normalize(vectors, dim=1)


def _whitening(centred: Tensor, dimensions: int) -> Tensor:
    """Return (d, dimensions): the leading principal directions, divided by their standard deviations."""
    most = min(len(centred) - 1, centred.shape[1])
    if not 1 <= dimensions <= most:
        raise ValueError(
            f"dimensions must be from 1 to {most}, for {centred.shape[1]} features of {len(centred)} public images; "
            f"got {dimensions}"
        )
    variances, directions = _principal(centred)
    variances, directions = variances[:dimensions], directions[:, :dimensions]
    projection: Tensor = directions / variances.clamp_min(SMALLEST * float(variances[0])).sqrt()
    return projection


def _discriminants(centred: Tensor, labels: Tensor, dimensions: int) -> Tensor:
    """Return (d, dimensions): the leading directions of linear discriminant analysis, of variance 1 inside a class."""
    if labels.shape != (len(centred),):
        raise ValueError(
            f"labels must have shape ({len(centred)},), one for each image; got {tuple(labels.shape)}"
        )
    variances, directions = _principal(centred)
    kept = directions[
        :, variances > SMALLEST * float(variances[0])
    ]  # the others could be all but the images' number
    classes = len(torch.unique(labels))
    most = min(classes - 1, kept.shape[1])
    if not 1 <= dimensions <= most:
        raise ValueError(
            f"dimensions must be from 1 to {most}, for {centred.shape[1]} features of {len(centred)} public images of "
            f"{classes} classes; got {dimensions}"
        )
    analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=SHRINKAGE)
    analysis.fit((centred @ kept).numpy(), labels.numpy())
    projection: Tensor = kept @ torch.from_numpy(analysis.scalings_[:, :dimensions])
    return projection


def _principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances (k,) and directions (d, k), the largest first."""
    if len(centred) < centred.shape[1]:  # a covariance of all features could be far larger than the images
        _, lengths, rows = torch.linalg.svd(centred, full_matrices=False)
        return lengths.square() / len(centred), rows.T
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    return variances.flip(0), directions.flip(1)
