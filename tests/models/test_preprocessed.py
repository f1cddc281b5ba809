from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dpmi import models
from dpmi.models import NORMALIZATIONS, Preprocessed

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def module() -> nn.Module:
    return models.build("softmax", image_shape=(3, 8, 8), num_classes=5, seed=0)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalises_as_torchvision_does(module: nn.Module, name: str) -> None:
    from torchvision.transforms.v2.functional import normalize

    mean, std = NORMALIZATIONS[name]
    every = [list(numbers) * (3 // len(numbers)) for numbers in (mean, std)]
    found = Preprocessed(module, mean=mean, std=std)(IMAGES)
    torch.testing.assert_close(found, module(normalize(IMAGES, *every)))


def test_logarithms_of_probabilities_have_the_same_softmax_and_gradient(module: nn.Module) -> None:
    soft = nn.Sequential(module, nn.Softmax(dim=1))
    images, labels = IMAGES.clone().requires_grad_(), torch.arange(4)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(module(images), labels), images)
    logits = Preprocessed(soft, probabilities=True)(images)
    torch.testing.assert_close(logits.softmax(dim=1), soft(images))
    (found,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), images)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_probability_of_zero_has_a_finite_logit() -> None:
    certain = Preprocessed(nn.Sequential(nn.Flatten(), nn.Threshold(0.5, 0.0)), probabilities=True)
    assert bool(certain(torch.tensor([[[[0.0, 1.0]]]])).isfinite().all())


def test_the_state_is_that_of_the_module(module: nn.Module) -> None:
    wrapped = Preprocessed(module, mean=(0.5,), std=(0.5,))
    assert {name.removeprefix("module.") for name in wrapped.state_dict()} == set(module.state_dict())
    assert models.head(wrapped) == f"module.{models.head(module)}"


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((), ()),
        ((0.5,), (0.5, 0.5)),
        ((math.nan,), (1.0,)),
        ((0.0,), (0.0,)),
        ((0.0,), (-1.0,)),
        ((0.0,), (math.inf,)),
    ],
)
def test_wrong_numbers_are_named(module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"normalize needs as many means as standard deviations.*got mean"):
        Preprocessed(module, mean=mean, std=std)


def test_other_channels_are_named(module: nn.Module) -> None:
    with pytest.raises(ValueError, match="normalize has 2 means, but the images have 3 channels"):
        Preprocessed(module, mean=(0.0, 0.0), std=(1.0, 1.0))(IMAGES)
