"""The filtered mean gradient, against dense matrices, the conditional mean of a normal vector, and Stein's lemma."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks import Budget, LabelsOnly, Wiener
from dpmi.attacks.wiener import typical_distance
from dpmi.data.public_gaussian import PublicGaussian
from dpmi.testing.digits import digits

from .conftest import SHAPE

PUBLIC = digits().test.images


def softmax_regression() -> nn.Module:
    linear = nn.Linear(64, 10)
    nn.init.normal_(linear.weight, generator=torch.Generator().manual_seed(0))
    return nn.Sequential(nn.Flatten(), linear)


def images(
    attack: Wiener, target: nn.Module, public: Tensor = PUBLIC, labels: Tensor | None = None
) -> Tensor:
    return attack.run(
        target,
        torch.arange(10),
        image_shape=SHAPE,
        generator=torch.Generator(),
        knowledge=attack.fit(target, public=public, public_labels=labels, image_shape=SHAPE),
    ).images


def expected(direction: Tensor, public: Tensor = PUBLIC, length: float | None = None) -> Tensor:
    """The mean public image, and the unit vector of each direction in the length of sqrt(trace Sigma / 2)."""
    flat = public.flatten(1).double()
    length = math.sqrt(float(flat.var(0).sum()) / 2) if length is None else length
    return (flat.mean(0) + length * F.normalize(direction, dim=1)).clamp(0, 1).float().view(-1, *SHAPE)


def covariance(public: Tensor = PUBLIC) -> Tensor:
    return torch.cov(public.flatten(1).double().T)


@pytest.mark.parametrize("tau", [0.0, 0.05, 3.0, math.inf])
def test_it_filters_the_weights_of_softmax_regression(tau: float) -> None:
    target = softmax_regression()
    weight = target.get_parameter("1.weight").detach().double()
    gradient = weight - weight.mean(0)
    sigma = covariance()
    if tau == 0:
        filtered = gradient
    elif math.isinf(tau):
        filtered = gradient @ sigma
    else:
        filtered = torch.linalg.solve(sigma + tau * torch.eye(64), sigma @ gradient.T).T
    torch.testing.assert_close(images(Wiener(tau=tau), target), expected(filtered), atol=2e-5, rtol=0)


def test_an_index_names_the_eigenvalue() -> None:
    target, values = softmax_regression(), torch.linalg.eigvalsh(covariance()).flip(0)
    torch.testing.assert_close(
        images(Wiener(tau_index=10), target), images(Wiener(tau=float(values[9])), target)
    )
    smallest = float(PublicGaussian.of(PUBLIC).variances[-1])
    torch.testing.assert_close(
        images(Wiener(tau_index=999), target), images(Wiener(tau=smallest), target), atol=1e-5, rtol=0
    )


def test_it_is_the_posterior_mean_of_a_class_mean_given_noisy_weights() -> None:
    """The conditional mean of a normal vector, by the inverse of the joint covariance of both."""
    scale, noise, share, size = 0.7, 0.4, 0.3, 64
    sigma = covariance()
    joint = torch.cat(
        [
            torch.cat([share * sigma, scale * share * sigma], dim=1),
            torch.cat([scale * share * sigma, scale**2 * share * sigma + noise**2 * torch.eye(size)], dim=1),
        ]
    )
    target = softmax_regression()
    weight = target.get_parameter("1.weight").detach().double()
    gradient = weight - weight.mean(0)
    mean = gradient @ torch.linalg.solve(joint[size:, size:], joint[size:, :size])
    tau = noise**2 / (scale**2 * share)
    torch.testing.assert_close(images(Wiener(tau=tau), target), expected(mean), atol=2e-5, rtol=0)


def test_infinite_tau_is_reverse_correlation() -> None:
    """Stein: for normal images, the covariance of image and output is Sigma times the mean gradient."""
    random = torch.Generator().manual_seed(1)
    sigma = covariance()
    root = torch.linalg.cholesky(sigma + 1e-9 * torch.eye(64))
    normal = 0.5 + 0.2 * torch.randn(200_000, 64, generator=random, dtype=torch.float64) @ root.T
    target = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))
    for parameter in target.parameters():
        nn.init.normal_(parameter, std=0.4, generator=random)
    with torch.no_grad():
        logits = target(normal.float()).double()
    centred = logits - logits.mean(1, keepdim=True)
    correlated = (centred - centred.mean(0)).T @ (normal - normal.mean(0)) / len(normal)
    some = normal[:20_000].float().view(-1, *SHAPE).clamp(0, 1)
    found = images(Wiener(tau=math.inf, images=20_000, rank=64), target, some).flatten(1).double()
    cosine = F.cosine_similarity(found - some.flatten(1).double().mean(0), correlated, dim=1)
    assert cosine.min() > 0.98


def test_public_classes_give_the_length() -> None:
    labels = digits().test.labels
    flat = PUBLIC.flatten(1).double()
    means = torch.stack([flat[labels == k].mean(0) for k in range(10)])
    length = float((means - flat.mean(0)).norm(dim=1).mean())
    assert typical_distance(PublicGaussian.of(PUBLIC), PUBLIC, labels + 7) == pytest.approx(length, rel=1e-6)
    target = softmax_regression()
    weight = target.get_parameter("1.weight").detach().double()
    torch.testing.assert_close(
        images(Wiener(tau=0.0), target, labels=labels),
        expected(weight - weight.mean(0), length=length),
        atol=2e-5,
        rtol=0,
    )


def test_a_budget_averages_fewer_gradients_and_one_that_pays_for_none_gives_the_mean(
    trained: nn.Module,
) -> None:
    attack = Wiener(images=300)
    knowledge = attack.fit(trained, public=PUBLIC, image_shape=SHAPE)
    few, none = (
        attack.run(
            trained,
            torch.arange(10),
            image_shape=SHAPE,
            generator=torch.Generator(),
            knowledge=knowledge,
            budget=Budget(grad_calls=limit),
        )
        for limit in (2000, 1)
    )
    assert 900 < few.grad_calls <= 2000
    assert few.stopped_by == none.stopped_by == "grad_calls"
    assert none.grad_calls == 0
    torch.testing.assert_close(none.images, PUBLIC.mean(0).expand(10, -1, -1, -1))


class Broken(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        """Class 0 has a gradient that is not finite, and a finite logit."""
        flat = pixels.flatten(1)
        return torch.stack([(flat - flat.detach()).sqrt().sum(1), flat.sum(1), flat[:, 20]], dim=1)


def test_a_gradient_that_is_not_finite_is_said_and_gives_the_mean() -> None:
    attack = Wiener()
    found = attack.run(
        Broken(),
        torch.arange(3),
        image_shape=SHAPE,
        generator=torch.Generator(),
        knowledge=attack.fit(Broken(), public=PUBLIC, image_shape=SHAPE),
    )
    assert found.diverged.all()  # the mean logit has that of class 0
    torch.testing.assert_close(found.images[0], PUBLIC.mean(0))


def test_bad_input() -> None:
    target, attack = softmax_regression(), Wiener()
    with pytest.raises(ValueError, match="wiener needs public images, but there are none"):
        images(attack, target, PUBLIC[:0])
    with pytest.raises(ValueError, match="public images must be at least 2 different images"):
        images(attack, target, torch.full((5, *SHAPE), 0.5))
    with pytest.raises(ValueError, match="wiener needs logits, white_grad of the target"):
        images(attack, LabelsOnly(target))
