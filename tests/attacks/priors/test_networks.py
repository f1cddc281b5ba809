from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dpmi.attacks.priors.base import ImageShape
from dpmi.attacks.priors.networks import (
    ClassDiscriminator,
    ConvGenerator,
    Critic,
    MinibatchDiscrimination,
    doublings,
    entrance,
    resized,
    square,
)

SHAPES = [(1, 8, 8), (1, 28, 28), (1, 32, 32), (3, 64, 64)]
CLASSES = 5


@pytest.mark.parametrize("shape", SHAPES)
def test_images_and_verdicts_of_every_size(shape: ImageShape) -> None:
    generator = ConvGenerator(10, shape, width=0.125)
    images = generator(torch.randn(3, 10))
    assert images.shape == (3, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert Critic(shape, width=0.125)(images).shape == (3,)
    assert ClassDiscriminator(shape, CLASSES, width=0.125)(images).shape == (3, CLASSES)


@pytest.mark.parametrize(
    ("shape", "first", "channels"),
    [
        ((3, 64, 64), (512, 4, 4), [256, 128, 64, 3]),
        ((1, 32, 32), (256, 4, 4), [128, 64, 1]),
        ((1, 28, 28), (128, 7, 7), [64, 1]),
    ],
)
def test_width_1_has_the_published_channels(
    shape: ImageShape, first: tuple[int, ...], channels: list[int]
) -> None:
    with torch.device("meta"):
        layers = list(ConvGenerator(100, shape, width=1).layers)
    assert layers[0].weight.shape == (torch.Size(first).numel(), 100)
    assert layers[0].bias is None
    assert [layer.out_channels for layer in layers if isinstance(layer, nn.ConvTranspose2d)] == channels


@pytest.mark.parametrize(
    ("network", "shape", "channels", "kernels"),
    [
        (Critic, (3, 64, 64), [64, 128, 256, 512, 1], [5, 5, 5, 5, 4]),
        (Critic, (1, 32, 32), [64, 128, 256, 1], [5, 5, 5, 4]),
        (Critic, (1, 28, 28), [64, 128, 256, 1], [5, 5, 5, 4]),
        (ClassDiscriminator, (3, 64, 64), [64, 128, 256, 256], [5, 5, 5, 3]),
        (ClassDiscriminator, (1, 32, 32), [64, 128, 256], [5, 5, 5]),
        (ClassDiscriminator, (1, 28, 28), [64, 128, 256], [5, 5, 5]),
    ],
)
def test_width_1_has_the_published_convolutions(
    network: type[nn.Module], shape: ImageShape, channels: list[int], kernels: list[int]
) -> None:
    arguments = (shape,) if network is Critic else (shape, CLASSES)
    with torch.device("meta"):
        built = network(*arguments, width=1)
    convolutions = [layer for layer in built.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == channels
    assert [layer.kernel_size[0] for layer in convolutions] == kernels
    if isinstance(built, ClassDiscriminator):
        assert built.closeness.tensor.weight.shape == (64 * 50, 4096)
        assert built.head.in_features == 4096 + 64


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 1025, 32), (1, 1, 30)])
def test_shape_that_cannot_be_made_is_named(shape: ImageShape) -> None:
    with pytest.raises(ValueError, match=rf"sides of 5 to 1024 pixels.*got \({shape[0]}, {shape[1]}"):
        doublings(shape)


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((1, 5, 5), 8),
        ((1, 30, 30), 32),
        ((3, 64, 32), 64),
        ((1, 46, 56), 56),
        ((1, 40, 30), 32),
        ((3, 1024, 768), 896),
    ],
)
def test_other_shapes_get_the_nearest_square(shape: ImageShape, side: int) -> None:
    assert square(shape) == (side, side)
    sides = [4 * 2**k for k in range(1, 8)] + [7 * 2**k for k in range(1, 8)]
    ratios = [max(each / max(shape), max(shape) / each) for each in sides]
    assert ratios[sides.index(side)] == min(ratios)


@pytest.mark.parametrize("shape", [(3, 20, 13), (1, 30, 30)])
def test_other_shapes_are_resized_from_and_to_the_square(shape: ImageShape) -> None:
    """Generators keep their gradient, and a discriminator says of an image what it says of the resized image."""
    sides = square(shape)
    generator = ConvGenerator(10, shape, width=0.1).eval()
    latents = torch.randn(2, 10, requires_grad=True)
    images = generator(latents)
    assert images.shape == (2, *shape)
    torch.testing.assert_close(
        images, F.interpolate(generator.layers(latents), shape[1:], mode="bilinear", antialias=True)
    )
    images.sum().backward()
    assert latents.grad is not None
    assert bool((latents.grad != 0).all())
    given = torch.rand(3, *shape)
    enlarged = F.interpolate(given, sides, mode="bilinear", antialias=True)
    critic = Critic(shape, width=0.1)
    torch.testing.assert_close(critic(given), nn.Sequential(*list(critic)[1:])(enlarged))
    classifier = ClassDiscriminator(shape, CLASSES, width=0.1).eval()
    torch.testing.assert_close(classifier(given), classifier(enlarged))


def test_a_square_that_can_be_made_gets_no_layer_more() -> None:
    assert entrance((3, 64, 64)) == entrance((1, 28, 28)) == ()
    assert resized(images := torch.rand(1, 1, 8, 8), (8, 8)) is images


def test_critic_leaves_each_image_to_itself() -> None:
    critic = Critic((1, 8, 8), width=0.25).double()
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    alone = torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(critic(images), alone)


def test_minibatch_discrimination_is_the_formula() -> None:
    layer = MinibatchDiscrimination(6, features=3, kernel_size=2).double()
    inputs = torch.randn(5, 6, dtype=torch.float64)
    # T as the paper has it, (size, features, kernel).
    tensor = layer.tensor.weight.T.reshape(6, 3, 2)
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for i in range(5):
        for j in set(range(5)) - {i}:
            for b in range(3):
                expected[i, b] += (-(inputs[i] @ tensor[:, b] - inputs[j] @ tensor[:, b]).abs().sum()).exp()
    torch.testing.assert_close(layer(inputs), expected)


def test_the_tensor_of_minibatch_discrimination_starts_standard_normal() -> None:
    """The init.normal_(T, 0, 1) of KED-MI's discri.py; torch's own linear layer would start 100 times smaller."""
    weights = MinibatchDiscrimination(4096, features=4, kernel_size=5).tensor.weight.detach().flatten()
    quantiles = torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(weights.quantile(quantiles), torch.special.ndtri(quantiles), atol=0.03, rtol=0)


def test_minibatch_discrimination_does_not_couple_images_in_evaluation() -> None:
    layer = MinibatchDiscrimination(6, features=3, kernel_size=2, momentum=1)
    inputs = torch.randn(5, 6)
    mean = layer(inputs).mean(dim=0)
    layer.eval()
    torch.testing.assert_close(layer(inputs[:2]), mean.expand(2, 3))
