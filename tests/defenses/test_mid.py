"""MID: what the channel draws, what it costs, and whose randomness it uses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from dpmi import models
from dpmi.attacks import Enhanced
from dpmi.data import Split
from dpmi.defenses import MID, Objective, Recipe, VariationalBottleneck
from dpmi.defenses.mid import Gaussian, divergence
from dpmi.metrics import accuracy, confidence
from dpmi.models import seeded

from .conftest import fit, softmax, weights

GENTLE = Recipe(steps=60, learning_rate=0.05)


def _bottleneck(model: nn.Module) -> VariationalBottleneck:
    (found,) = (m for m in model.modules() if isinstance(m, VariationalBottleneck))
    return found


def test_divergence_is_that_of_the_gaussians_that_are_drawn_from() -> None:
    generator = torch.Generator().manual_seed(0)
    statistics = 3 * torch.randn(7, 10, generator=generator, dtype=torch.float64)
    mean, std = statistics[:, :5], F.softplus(statistics[:, 5:] - 5)
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(divergence(Gaussian()(statistics)), expected)
    free = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)], dim=1)
    assert divergence(free).tolist() == [0, 0]


def test_draws_have_the_mean_and_the_spread_that_are_charged() -> None:
    """Monte Carlo, five standard errors."""
    n, layer = 20_000, VariationalBottleneck(3, 2)
    with torch.no_grad(), seeded(layer, 1):
        layer.statistics.bias.copy_(torch.tensor([1.0, -2.0, 5.0, 7.0]))
        features = torch.tensor([[0.3, -1.0, 0.5]])
        mean, raw = layer.statistics(features)[0].chunk(2)
        std = F.softplus(raw - 5)
        drawn = layer(features.expand(n, 3))
    assert ((drawn.mean(dim=0) - mean).abs() < 5 * std / n**0.5).all()
    assert ((drawn.std(dim=0) / std - 1).abs() < 5 / (2 * n) ** 0.5).all()
    assert abs(float(torch.corrcoef(drawn.T)[0, 1])) < 5 / n**0.5
    assert len(drawn.unique(dim=0)) == n


def test_loss_is_cross_entropy_of_noisy_logits_and_beta_nats(split: Split) -> None:
    images, labels = split.train.images[:9], split.train.labels[:9]
    model = MID(beta=0.3).build(softmax())
    objective = Objective(MID(beta=0.3), model, (1, 8, 8), 10, 0)
    with seeded(model, 5):
        loss = objective(model, images, labels, 0.0)
        after = torch.get_rng_state()
    head = model[1]
    with seeded(model, 5):
        mean, raw = head.bottleneck.statistics(images.flatten(1)).chunk(2, dim=1)
        noise = torch.randn(9, 32)
        assert torch.equal(torch.get_rng_state(), after)
    std = F.softplus(raw - 5)
    nats = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(dim=1).mean()
    expected = F.cross_entropy(head.classifier(mean + std * noise), labels) + 0.3 * nats
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("bottleneck", "size"), [(None, 32), (1, 1), (64, 64)])
def test_sizes(bottleneck: int | None, size: int) -> None:
    head = MID(beta=0.1, bottleneck=bottleneck).build(softmax())[1]
    assert head.bottleneck.statistics.weight.shape == (2 * size, 64)
    assert head.classifier.weight.shape == (10, size)


def test_one_feature_has_a_bottleneck_of_one() -> None:
    model = MID(beta=0.1).build(nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 3)))
    assert model(torch.rand(5, 4)).shape == (5, 3)


def test_wider_than_the_features_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="bottleneck must be at most 64, the features of the model, got 65"):
        fit(MID(beta=0.1, bottleneck=65), split.train)


def test_noise_in_evaluation_can_be_switched_off_later(split: Split) -> None:
    """And in training it cannot: there the mean is no defence."""
    model = fit(MID(beta=0.01), split.train).model
    images = split.test.images[:20]
    assert not torch.equal(model(images), model(images))
    layer = _bottleneck(model)
    layer.evaluation = "mean"
    assert torch.equal(model(images), model(images))
    mean = layer.statistics(images.flatten(1))[:, :32]
    torch.testing.assert_close(model(images), model[1].classifier(mean))
    model.train()
    assert not torch.equal(model(images), model(images))
    built = MID(beta=0.01, evaluation="mean").build(softmax()).eval()
    assert torch.equal(built(images), built(images))


def test_larger_beta_lets_less_through(split: Split) -> None:
    free, dear = (fit(MID(beta=beta), split.train, recipe=GENTLE) for beta in (0.0, 0.3))
    assert dear.diagnostics["bottleneck_nats"] < 0.1 * free.diagnostics["bottleneck_nats"]
    assert dear.diagnostics["bottleneck_std"] > 10 * free.diagnostics["bottleneck_std"]


def test_an_attack_is_repeatable_and_leaves_global_randomness_alone(split: Split) -> None:
    """Trap 8: every query meets fresh noise, and it comes from the attack's seed."""
    target = fit(MID(beta=0.05), split.train).model
    attack = Enhanced(iterations=20, restarts=2)

    def images(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return attack.run(target, torch.arange(3), image_shape=(1, 8, 8), generator=generator).images

    before = torch.get_rng_state()
    first = images(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(images(0), first)
    assert not torch.equal(images(1), first)


def test_accuracy_is_repeatable_and_leaves_global_randomness_alone(split: Split) -> None:
    target = fit(MID(beta=0.3), split.train, recipe=GENTLE).model
    images, labels = split.test.images, split.test.labels
    before = torch.get_rng_state()
    first = confidence(target, images, labels)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(confidence(target, images, labels), first)
    assert accuracy(target, images, labels) == accuracy(target, images, labels)
    with torch.no_grad(), seeded(target, 99):
        other = target(images).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    assert not torch.equal(other, first), "the noise must still be there"


def test_a_new_head_depends_on_the_old_one_alone() -> None:
    def head(seed: int) -> Tensor:
        model = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=seed)
        return weights(MID(beta=0.1).build(model)[-1])

    first = head(0)
    torch.rand(5)
    assert torch.equal(head(0), first)
    assert not torch.equal(head(1), first)


def test_a_new_head_is_of_the_type_of_the_old_one() -> None:
    model = MID(beta=0.1).build(softmax().double())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
