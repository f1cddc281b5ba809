"""What each family of distributions says of itself, against Monte Carlo, closed forms and numerical Jacobians."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from dpmi.attacks.priors import Generator
from dpmi.attacks.stages.distributions import DiagonalGaussian, Distribution, Flow, FullGaussian

SIZE = 3
LABELS = torch.tensor([4, 1])
BOTH = slice(0, 2)


class _Shows(Generator):
    """An image is its latent."""

    def __init__(self) -> None:
        super().__init__(SIZE, (1, 1, SIZE))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return latents.view(-1, 1, 1, SIZE)


@pytest.fixture(params=[DiagonalGaussian, FullGaussian, Flow])
def distribution(request: pytest.FixtureRequest) -> Distribution:
    return request.param(_Shows(), LABELS, seed=3, draws=5, kl_weight=0.5)


def _move(distribution: Distribution, scale: float = 0.3) -> None:
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in distribution.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=drawn), alpha=scale)


def test_starts_at_the_standard_normal(distribution: Distribution) -> None:
    noise = torch.randn(2, 20_000, SIZE, generator=torch.Generator().manual_seed(0))
    latents, divergence = distribution.transform(noise, BOTH)
    torch.testing.assert_close(divergence, torch.zeros(2), atol=1e-5, rtol=0)
    assert (latents.mean(dim=1).abs() < 0.03).all()
    torch.testing.assert_close(torch.cov(latents[0].T), torch.eye(SIZE), atol=0.04, rtol=0)


@pytest.mark.parametrize("family", [DiagonalGaussian, FullGaussian])
def test_gaussian_divergence_is_that_of_its_samples(family: type[Distribution]) -> None:
    distribution = family(_Shows(), LABELS, seed=0)
    _move(distribution)
    noise = torch.randn(2, 200_000, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents, divergence = distribution.transform(noise, BOTH)
    for row in range(2):
        fitted = MultivariateNormal(latents[row].mean(dim=0), torch.cov(latents[row].T))
        standard = MultivariateNormal(torch.zeros(SIZE), torch.eye(SIZE))
        assert float(divergence[row]) == pytest.approx(float(kl_divergence(fitted, standard)), abs=0.02)


def test_flow_keeps_count_of_volume() -> None:
    """ln q(z) - ln N(z) of one draw, with the determinant of a numerical Jacobian."""
    flow = Flow(_Shows(), LABELS, seed=0)
    _move(flow, scale=0.1)
    noise = torch.randn(1, 1, SIZE, generator=torch.Generator().manual_seed(2))
    row = slice(1, 2)
    jacobian = torch.autograd.functional.jacobian(lambda eps: flow.transform(eps, row)[0], noise)
    log_determinant = torch.linalg.slogdet(jacobian.view(SIZE, SIZE))[1]
    latents, divergence = flow.transform(noise, row)
    constant = -SIZE / 2 * math.log(2 * math.pi)
    log_q = constant - noise.square().sum() / 2 - log_determinant
    log_p = constant - latents.square().sum() / 2
    assert float(divergence[0].detach()) == pytest.approx(float((log_q - log_p).detach()), rel=1e-5, abs=1e-4)


def test_classes_do_not_know_of_each_other(distribution: Distribution) -> None:
    alone = type(distribution)(_Shows(), LABELS[1:], seed=3, draws=5, kl_weight=0.5)
    for _ in range(3):
        together = distribution.images(BOTH)
        assert torch.equal(together[5:], alone.images(slice(0, 1)))
        distribution.advance()
        alone.advance()
    assert torch.equal(distribution.sample(4)[4:], alone.sample(4))


def test_each_step_draws_anew_and_samples_are_others(distribution: Distribution) -> None:
    first = distribution.images(BOTH)
    distribution.advance()
    assert not torch.equal(first, distribution.images(BOTH))
    assert torch.equal(distribution.sample(5), distribution.sample(5))
    assert not torch.equal(distribution.sample(5), first)


def test_penalty_is_the_weighted_divergence(distribution: Distribution) -> None:
    _move(distribution)
    free = type(distribution)(_Shows(), LABELS, seed=3, draws=5)
    assert free.penalty(BOTH) == 0.0
    penalty = distribution.penalty(BOTH)
    assert isinstance(penalty, Tensor)
    assert penalty.shape == (2,)
    assert penalty.requires_grad
