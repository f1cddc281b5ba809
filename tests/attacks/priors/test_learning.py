"""What the priors have learnt after a short training on small digits.

Modules: dpmi/attacks/priors/base.py, dpmi/attacks/priors/conditional_gan.py,
dpmi/attacks/priors/feature_statistics.py, dpmi/attacks/priors/inversion_gan.py, dpmi/attacks/priors/surrogates.py,
dpmi/attacks/priors/training.py, dpmi/attacks/priors/wgan_gp.py.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks.priors import (
    ConditionalGan,
    FeatureMoments,
    FeatureStatistics,
    Gan,
    InversionGan,
    Prior,
    StylePrior,
    Surrogates,
    WganGP,
    fetch,
    samples,
)
from dpmi.attacks.priors.training import BatchPrior, BatchTrainer, GanPrior, soft_labels
from dpmi.attacks.target import Target
from dpmi.testing.digits import SHAPE, classifier

SHORT = {
    "steps": 60,
    "batch_size": 32,
    "width": 0.1,
    "latent_size": 16,
    "learning_rate": 5e-3,
    "generator_every": 1,
}


def _network() -> nn.Sequential:
    network = deepcopy(classifier()).eval().requires_grad_(False)
    assert isinstance(network, nn.Sequential)
    return network


def _learn(prior: Prior, public: Tensor, target: Target) -> nn.Module:
    return fetch(
        prior,
        public=public,
        target=target,
        image_shape=SHAPE,
        num_classes=10,
        folder=None,
        progress=lambda done, steps: None,
    )


@pytest.mark.parametrize("prior", [WganGP(**SHORT), InversionGan(**SHORT)])
def test_generator_comes_nearer_to_the_public_images(prior: Prior, public: Tensor, target: Target) -> None:
    def distance(gan: nn.Module) -> float:
        assert isinstance(gan, Gan)
        return float((samples(gan, 200).mean(dim=0) - public.mean(dim=0)).norm())

    untrained = distance(_learn(replace(prior, steps=1, learning_rate=1e-12), public, target))
    assert distance(_learn(prior, public, target)) < untrained * 0.75


def test_discriminator_of_the_inversion_gan_repeats_the_target(public: Tensor, target: Target) -> None:
    gan = _learn(InversionGan(**SHORT), public, target)
    assert isinstance(gan, Gan)
    agreement = (gan.discriminator(public).argmax(dim=1) == target.labels(public)).double().mean()
    assert agreement > 0.8


def test_conditional_generator_makes_what_the_target_takes_for_the_class(
    public: Tensor, target: Target
) -> None:
    # So short a training learns the classes only if most of its loss is about them.
    prior = ConditionalGan(**{**SHORT, "learning_rate": 2e-2}, alpha=100.0)
    gan = _learn(prior, public, target)
    assert isinstance(gan, Gan)
    labels = torch.arange(200) % 10
    assert (target.labels(samples(gan, 200)) == labels).double().mean() > 0.5


def test_conditional_gan_counts_what_it_asks(public: Tensor, target: Target) -> None:
    _learn(ConditionalGan(**{**SHORT, "steps": 6, "generator_every": 3}), public, target)
    # All public images once, and two batches of the generator.
    assert (target.queries, target.grad_calls) == (len(public) + 2 * 32, 2 * 32)


def test_surrogates_repeat_the_target(public: Tensor, target: Target) -> None:
    students = _learn(Surrogates(steps=40, batch_size=32, learning_rate=0.05), public, target)
    assert isinstance(students, nn.ModuleList)
    assert len({sum(p.numel() for p in one.parameters()) for one in students}) == 3, "of different widths"
    for one in students:
        assert (one(public).argmax(dim=1) == target.labels(public)).double().mean() > 0.8


def test_soft_labels_are_the_softmax_of_all_images(target: Target) -> None:
    images = torch.rand(600, *SHAPE)
    expected = F.softmax(_network()(images), dim=1)
    torch.testing.assert_close(soft_labels(target, images), expected)
    assert target.queries == 600


class _Counting(nn.Module):
    """A classifier that draws noise for every answer, and counts the images it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _network()
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        logits: Tensor = self.inner(images)
        return logits + torch.randn_like(logits)


def test_the_same_question_is_answered_once_and_billed_twice(public: Tensor) -> None:
    module = _Counting()
    answers, draws = [], []
    for _ in range(2):
        target = Target(module)
        torch.manual_seed(1)
        answers.append(soft_labels(target, public))
        draws.append(torch.rand(3))
        assert target.queries == len(public)
    assert module.asked == len(public)
    assert torch.equal(*answers)
    assert torch.equal(*draws), "what is drawn afterwards does not depend on who asked first"


def test_another_question_is_asked_again(public: Tensor) -> None:
    module = _Counting()
    asked = 0
    images = public.clone()

    def change_weights() -> None:
        with torch.no_grad():
            next(module.parameters()).add_(1.0)

    changes = [lambda: None, change_weights, lambda: images.mul_(0.5), lambda: torch.manual_seed(2)]
    torch.manual_seed(1)
    start = torch.get_rng_state()
    for change in changes:
        torch.set_rng_state(start)
        change()
        soft_labels(Target(module), images)
        asked += len(images)
        assert module.asked == asked
    torch.set_rng_state(start)
    soft_labels(Target(module), images.clone())
    assert module.asked == asked + len(images)


def test_feature_statistics_are_those_of_the_first_images(public: Tensor, target: Target) -> None:
    others_changed = public.clone()
    others_changed[280:] = 0
    moments = _learn(FeatureStatistics(count=280), others_changed, target)
    assert isinstance(moments, FeatureMoments)
    assert target.queries == 280
    body = _network()[:-1]
    features = body(public[:280]).double().numpy()
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moments.std, features.std(axis=0, ddof=1), rtol=1e-4, atol=1e-6)


def test_feature_statistics_of_one_image_are_refused(public: Tensor, target: Target) -> None:
    with pytest.raises(ValueError, match="at least 2 images for feature-statistics; got 1"):
        _learn(FeatureStatistics(), public[:1], target)


TRAINED = [WganGP(), InversionGan(), ConditionalGan(width=0.1), StylePrior(), Surrogates(count=1)]


@pytest.mark.parametrize("prior", TRAINED, ids=lambda prior: prior.name)
def test_bf16_is_for_the_forward_passes_of_the_prior(
    prior: BatchPrior, public: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, losses and the answers of the target stay in float32; so does every backward pass."""
    answers: set[torch.dtype] = set()
    outputs: set[torch.dtype] = set()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.add(output.dtype)

    class Asked(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = super().forward(images)
            answers.add(found.dtype)
            return found

    def one_step(precision: str) -> tuple[dict[str, float], Tensor]:
        torch.default_generator.manual_seed(0)
        own = replace(prior, precision=precision)
        module = own.build(SHAPE, 10).train()
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(note)
        trainer = own.trainer(module, public, Target(Asked(*_network()).eval()))
        assert isinstance(trainer, BatchTrainer)
        trainer._done = own.generator_every - 1 if isinstance(own, GanPrior) else 0
        losses = dict(trainer.step())
        return losses, torch.cat([p.detach().flatten() for p in module.parameters()])

    backward = Tensor.backward

    def checked(loss: Tensor, *arguments: Any, **options: Any) -> None:
        assert loss.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        backward(loss, *arguments, **options)

    monkeypatch.setattr(Tensor, "backward", checked)
    exact, exact_weights = one_step("float32")
    assert outputs <= {torch.float32}
    outputs.clear()
    found, weights = one_step("bf16")
    assert torch.bfloat16 in outputs or isinstance(prior, StylePrior)
    assert answers <= {torch.float32}
    assert weights.dtype == torch.float32
    assert found.keys() == exact.keys()
    assert found != exact
    for name, loss in found.items():
        assert loss == pytest.approx(exact[name], abs=0.05, rel=0.05)
    assert not torch.equal(weights, exact_weights)
