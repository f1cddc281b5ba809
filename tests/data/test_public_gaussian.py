"""Mean, covariance and its functions, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpmi.data.public_gaussian import SAMPLES, PublicGaussian


def images(count: int, side: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(count)
    mixed = torch.rand(count, 12, generator=random) @ torch.rand(12, side * side, generator=random) / 12
    noise = 0.2 * torch.rand(count, side * side, generator=random)
    return (mixed + noise).clamp(0, 1).view(count, 1, side, side)


def dense(gaussian: PublicGaussian) -> torch.Tensor:
    return gaussian.apply(lambda variances: variances, torch.eye(len(gaussian.mean), dtype=torch.float64))


@pytest.mark.parametrize(("count", "side"), [(200, 5), (20, 5)], ids=["tall", "wide"])
def test_with_all_components_it_is_the_sample_covariance(count: int, side: int) -> None:
    some = images(count, side)
    gaussian = PublicGaussian.of(some)
    flat = some.flatten(1).double().numpy()
    np.testing.assert_allclose(gaussian.mean, flat.mean(0), atol=1e-7)
    np.testing.assert_allclose(dense(gaussian), np.cov(flat.T), atol=1e-12)
    assert gaussian.total == pytest.approx(np.trace(np.cov(flat.T)))
    assert (gaussian.variances.diff() <= 0).all()


@pytest.mark.parametrize("count", [200, 20])
def test_few_components_leave_the_rest_its_mean_variance(count: int) -> None:
    some = images(count, 5)
    gaussian = PublicGaussian.of(some, rank=3)
    values, vectors = np.linalg.eigh(np.cov(some.flatten(1).double().numpy().T))
    np.testing.assert_allclose(gaussian.variances, values[::-1][:3])
    assert gaussian.rest == pytest.approx(values[:-3].mean())
    expected = vectors @ np.diag([gaussian.rest] * 22 + list(values[-3:])) @ vectors.T
    np.testing.assert_allclose(dense(gaussian), expected, atol=1e-12)


def test_functions_of_the_covariance() -> None:
    gaussian = PublicGaussian.of(images(200, 5))
    sigma, vectors = dense(gaussian), torch.randn(4, 25, dtype=torch.float64)
    filtered = gaussian.apply(lambda variances: variances / (variances + 0.01), vectors)
    expected = torch.linalg.solve(sigma + 0.01 * torch.eye(25, dtype=torch.float64), sigma @ vectors.T).T
    torch.testing.assert_close(filtered, expected)


def test_coordinates_of_power_one_half_are_white() -> None:
    some = images(200, 5)
    white = PublicGaussian.of(some, rank=10).coordinates(some, power=-0.5)
    np.testing.assert_allclose(np.cov(white.T.numpy()), np.eye(10), atol=1e-8)
    quarter = PublicGaussian.of(some, rank=10).coordinates(some, power=-0.25)
    np.testing.assert_allclose(quarter.var(0) / white.var(0), PublicGaussian.of(some).variances[:10] ** 0.5)


def test_directions_without_variance_are_left_out() -> None:
    some = images(200, 5)
    some[:, :, 0] = 0.0
    gaussian = PublicGaussian.of(some)
    assert len(gaussian.variances) == 20
    assert gaussian.coordinates(some, power=-0.5).abs().max() < 10


def test_many_images_are_sampled_evenly() -> None:
    some = images(3 * SAMPLES, 4)
    gaussian = PublicGaussian.of(some)
    np.testing.assert_allclose(gaussian.mean, some.flatten(1).double().mean(0), atol=1e-7)
    np.testing.assert_allclose(dense(gaussian), np.cov(some.flatten(1).numpy().T), atol=3e-3)


@pytest.mark.parametrize(
    ("some", "what"),
    [
        (torch.zeros(0, 1, 4, 4), "got 0 images$"),
        (torch.rand(1, 1, 4, 4), "got 1 images$"),
        (torch.full((3, 1, 4, 4), 0.3), "3 images that are all equal"),
    ],
)
def test_images_without_variance_are_refused(some: torch.Tensor, what: str) -> None:
    with pytest.raises(ValueError, match=f"public images must be at least 2 different images.*{what}"):
        PublicGaussian.of(some)
