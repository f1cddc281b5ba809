"""Centring and scaling by public statistics: closed forms, and what cannot be."""

from __future__ import annotations

import pytest
import torch

from dpmi.models.features import PublicStatistics
from dpmi.models.features.statistics import LENGTH, SHRINKAGE, SMALLEST


def features(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.arange(1.0, d + 1) + 2


def test_vectors_are_centred_unit_vectors_of_one_length() -> None:
    public, private = features(500), features(20, seed=1)
    found = PublicStatistics(public)(private)
    unit = public / public.norm(dim=1, keepdim=True)
    expected = private / private.norm(dim=1, keepdim=True) - unit.mean(dim=0)
    torch.testing.assert_close(found, LENGTH * expected / expected.norm(dim=1, keepdim=True))
    assert found.norm(dim=1) == pytest.approx(LENGTH)


@pytest.mark.parametrize("dimensions", [1, 3, 6])
def test_a_projection_whitens_the_leading_directions_of_public_features(dimensions: int) -> None:
    public = features(4000)
    statistics = PublicStatistics(public, dimensions=dimensions)
    unit = public / public.norm(dim=1, keepdim=True)
    assert statistics.projection is not None
    projected = (unit - unit.mean(dim=0)) @ statistics.projection
    torch.testing.assert_close(
        torch.cov(projected.T).reshape(dimensions, dimensions), torch.eye(dimensions), atol=2e-3, rtol=0
    )
    # The directions kept are those of largest variance: no other direction has more.
    variances = torch.linalg.eigvalsh(torch.cov(unit.T)).flip(0)
    kept = statistics.projection / statistics.projection.norm(dim=0)
    found = torch.diagonal(kept.T @ torch.cov(unit.T) @ kept)
    torch.testing.assert_close(found, variances[:dimensions], rtol=1e-3, atol=1e-6)
    assert statistics.size == dimensions
    assert statistics(features(3, seed=2)).shape == (3, dimensions)


def test_fewer_images_than_features_give_the_same_directions() -> None:
    public = features(40, d=60)
    found = PublicStatistics(public, dimensions=30).projection
    assert found is not None
    unit = (public / public.norm(dim=1, keepdim=True)).double()
    projected = (unit - unit.mean(dim=0)) @ found.double()
    torch.testing.assert_close(projected.T @ projected / 40, torch.eye(30).double(), atol=1e-5, rtol=0)
    variances = torch.linalg.eigvalsh(torch.cov(unit.T, correction=0)).flip(0)[:30]
    torch.testing.assert_close(found.double().norm(dim=0), variances.rsqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("per_class", "d"), [(400, 6), (9, 60)], ids=["more images", "more features"])
def test_labels_keep_the_directions_that_tell_classes_apart(per_class: int, d: int) -> None:
    """Against the definition: with the same shrinkage, they diagonalize both covariances, the best ratios first."""
    classes, dimensions = 5, 3
    labels = torch.arange(classes).repeat(per_class)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(7))
    public = features(len(labels), d=d) + 4 * centres[labels]
    found = PublicStatistics(public, dimensions=dimensions, labels=labels).projection
    assert found is not None
    assert found.shape == (d, dimensions)
    unit = (public / public.norm(dim=1, keepdim=True)).double()
    centred = unit - unit.mean(dim=0)
    _, lengths, rows = torch.linalg.svd(centred, full_matrices=False)
    basis = rows[lengths.square() > SMALLEST * lengths[0].square()].T

    def shrunk(vectors: torch.Tensor) -> torch.Tensor:
        covariance = torch.cov(vectors.T, correction=0)
        k = len(covariance)
        return (1 - SHRINKAGE) * covariance + SHRINKAGE * covariance.trace() / k * torch.eye(k).double()

    inside = sum(shrunk((centred @ basis)[labels == each]) / classes for each in range(classes))
    between = shrunk(centred @ basis) - inside
    projection = basis.T @ found.double()
    torch.testing.assert_close(
        projection.T @ inside @ projection, torch.eye(dimensions).double(), atol=1e-4, rtol=0
    )
    ratios = torch.linalg.eigvals(torch.linalg.solve(inside, between)).real.sort(descending=True).values
    torch.testing.assert_close(
        projection.T @ between @ projection, torch.diag(ratios[:dimensions]), atol=1e-3, rtol=1e-3
    )


def test_directions_of_public_classes_tell_other_classes_apart() -> None:
    """Nearest mean of classes that the directions never saw, where most of the variance is inside a class."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.cat([torch.full((20,), 3.0), torch.full((40,), 0.3)])
    labels = torch.arange(40).repeat_interleave(12)
    centres = torch.cat([torch.zeros(40, 20), torch.randn(40, 40, generator=generator)], dim=1)
    vectors = centres[labels] + noise * torch.randn(len(labels), 60, generator=generator) + 2
    public, private = labels < 20, labels >= 20

    def accuracy(statistics: PublicStatistics) -> float:
        found, own = statistics(vectors[private]).view(20, 12, -1), torch.arange(20).repeat_interleave(6)
        means = found[:, :6].mean(dim=1)
        return float((torch.cdist(found[:, 6:].flatten(0, 1), means).argmin(1) == own).float().mean())

    by_variance = PublicStatistics(vectors[public], dimensions=15)
    by_classes = PublicStatistics(vectors[public], dimensions=15, labels=labels[public])
    assert accuracy(by_classes) > accuracy(by_variance) + 0.3


@pytest.mark.parametrize(
    ("dimensions", "labels", "message"),
    [
        (None, torch.arange(50) % 5, "dimensions must be given with them"),
        (
            0,
            torch.arange(50) % 5,
            "dimensions must be from 1 to 4, for 6 features of 50 public images of 5 classes",
        ),
        (5, torch.arange(50) % 5, "from 1 to 4, .* of 5 classes; got 5"),
        (1, torch.zeros(50), "from 1 to 0, .* of 1 classes"),
        (2, torch.arange(49) % 5, r"labels must have shape \(50,\), one for each image; got \(49,\)"),
    ],
)
def test_labels_that_choose_no_directions_are_refused(
    dimensions: int | None, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PublicStatistics(features(50), dimensions=dimensions, labels=labels)


def test_nothing_private_enters() -> None:
    statistics = PublicStatistics(features(500))
    one, others = features(1, seed=3), features(50, seed=4)
    torch.testing.assert_close(statistics(torch.cat([one, others]))[:1], statistics(one))


@pytest.mark.parametrize("dimensions", [0, 7])
def test_too_many_dimensions_are_refused(dimensions: int) -> None:
    with pytest.raises(
        ValueError, match=f"dimensions must be from 1 to 6, for 6 features .* got {dimensions}"
    ):
        PublicStatistics(features(50), dimensions=dimensions)


def test_more_dimensions_than_public_images_are_refused() -> None:
    with pytest.raises(
        ValueError, match="dimensions must be from 1 to 3, for 6 features of 4 public images; got 5"
    ):
        PublicStatistics(features(4), dimensions=5)


@pytest.mark.parametrize("public", [features(1), features(1).expand(9, -1), features(9)[0]])
def test_public_features_that_tell_nothing_are_refused(public: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"at least 2 public images|the same features"):
        PublicStatistics(public)
