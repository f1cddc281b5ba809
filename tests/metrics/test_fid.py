"""FID against matrix square roots and torchmetrics, and that a failure is never a perfect score."""

import importlib
import math

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from dpmi.metrics import Gaussian, fid


def sets(first: int, second: int, width: int) -> tuple[Tensor, Tensor]:
    """Correlated features of different means, like those of a network behind ReLU."""
    generator = torch.Generator().manual_seed(first)
    mix = torch.randn(width, width, generator=generator) / width**0.5
    draws = [torch.randn(n, width, generator=generator) @ mix for n in (first, second)]
    return draws[0].relu(), (1.5 * draws[1] + 0.3).relu()


def by_square_root(first: Tensor, second: Tensor) -> float:
    """Heusel et al., equation 6, as it stands."""
    covariances = [torch.cov(features.double().T).numpy() for features in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    means = first.double().mean(dim=0) - second.double().mean(dim=0)
    traces = covariances[0].trace() + covariances[1].trace()
    return float(means.square().sum()) + float(traces - 2 * root.trace().real)


@pytest.mark.parametrize(
    ("first", "second", "width"), [(40, 60, 96), (200, 150, 24), (20, 300, 48), (300, 20, 48), (49, 48, 48)]
)
def test_is_that_of_the_square_root(first: int, second: int, width: int) -> None:
    """Fewer images than features, more, and one of each."""
    pair = sets(first, second, width)
    found = fid(*pair, feature_net="net")
    assert found.value == pytest.approx(by_square_root(*pair), rel=1e-6)
    assert (found.feature_net, found.undefined) == ("net", "")


@pytest.mark.parametrize(("first", "second", "width"), [(30, 40, 16), (200, 150, 24)])
def test_is_that_of_torchmetrics(first: int, second: int, width: int) -> None:
    class Features(nn.Flatten):
        num_features = width

    recons, private = sets(first, second, width)
    metric = FrechetInceptionDistance(feature=Features()).set_dtype(torch.float64)
    metric.update(private.double()[:, :, None, None], real=True)
    metric.update(recons.double()[:, :, None, None], real=False)
    found = fid(recons, private, feature_net="net").value
    assert found == pytest.approx(float(metric.compute()), rel=1e-6)


def test_of_gaussians_along_one_line() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    first, second = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[2.0], [4.0], [9.0], [9.0]])
    expected = float((first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2)
    assert fid(first, second, feature_net="net").value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 2000])
def test_blocks_do_not_matter(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = sets(170, 230, 16)
    whole = fid(*pair, feature_net="net").value
    monkeypatch.setattr(importlib.import_module("dpmi.metrics.fid"), "_CHUNK", chunk)
    assert fid(*pair, feature_net="net").value == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("count", [10, 100])
def test_equal_sets_are_at_zero_from_above(count: int) -> None:
    features, _ = sets(count, 2, 32)
    assert 0 <= fid(features, features.flip(0), feature_net="net").value < 1e-8


def test_failure_is_nan_with_a_reason() -> None:
    """Trap 9: a peer returns 0, which is perfect."""
    features, _ = sets(5, 5, 4)
    for pair, reason in (
        ((features[:1], features), "at least 2 reconstructions; there are 1"),
        ((features, features[:0]), "at least 2 private images; there are 0"),
        ((features * math.nan, features), "features of reconstructions are not finite"),
        ((features, features * math.inf), "features of private images are not finite"),
    ):
        found = fid(*pair, feature_net="net")
        assert math.isnan(found.value)
        assert reason in found.undefined


def test_bad_input() -> None:
    features, _ = sets(5, 5, 4)
    with pytest.raises(ValueError, match="feature_net must name"):
        fid(features, features, feature_net="")
    with pytest.raises(ValueError, match="got d = 4 and 3"):
        fid(features, features[:, :3], feature_net="net")
    with pytest.raises(ValueError, match=r"features must be \(n, d\); got shape \(5,\)"):
        Gaussian.of(features[:, 0])


def test_what_was_found_once_serves_many_comparisons() -> None:
    recons, private = sets(20, 60, 8)
    known = Gaussian.of(private)
    assert fid(recons, known, feature_net="net") == fid(recons, private, feature_net="net")
