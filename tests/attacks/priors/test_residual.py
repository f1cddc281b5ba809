from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dpmi.attacks.priors.base import ImageShape
from dpmi.attacks.priors.residual import ConditionalBatchNorm, ConditionalGenerator, ProjectionDiscriminator

CLASSES = 3


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (1, 32, 32), (3, 64, 64)])
def test_images_and_verdicts_of_every_size(shape: ImageShape) -> None:
    labels = torch.arange(CLASSES)
    images = ConditionalGenerator(10, shape, CLASSES, width=0.1)(torch.randn(CLASSES, 10), labels)
    assert images.shape == (CLASSES, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert ProjectionDiscriminator(shape, CLASSES, width=0.1)(images, labels).shape == (CLASSES,)


def test_an_eighth_of_the_published_channels() -> None:
    generator = ConditionalGenerator(128, (3, 64, 64), CLASSES, width=1 / 8)
    assert generator.start[0].out_features == 1024 / 8 * 4 * 4
    assert [block.conv2.out_channels * 8 for block in generator.blocks] == [512, 256, 128, 64]
    discriminator = ProjectionDiscriminator((3, 64, 64), CLASSES, width=1 / 8)
    assert [block.conv2.out_channels * 8 for block in discriminator.blocks[:-1]] == [64, 128, 256, 512, 1024]


def test_generator_needs_labels() -> None:
    with pytest.raises(ValueError, match="labels must be given"):
        ConditionalGenerator(4, (1, 8, 8), CLASSES, width=0.1)(torch.randn(2, 4))


def test_conditional_batch_norm_scales_by_class() -> None:
    layer = ConditionalBatchNorm(2, CLASSES).double()
    inputs, labels = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 2])
    nn.init.normal_(layer.scale.weight)
    nn.init.normal_(layer.shift.weight)
    normal = F.batch_norm(inputs, None, None, training=True)
    for row, label in enumerate(labels):
        for channel in range(2):
            expected = normal[row, channel] * layer.scale.weight[label, channel]
            expected += layer.shift.weight[label, channel]
            torch.testing.assert_close(layer(inputs, labels)[row, channel], expected)


def test_discriminator_adds_the_inner_product_with_the_class() -> None:
    discriminator = ProjectionDiscriminator((1, 8, 8), CLASSES, width=0.1).double().eval()
    images = torch.rand(CLASSES, 1, 8, 8, dtype=torch.float64)
    features = discriminator.blocks(images).sum(dim=(2, 3))
    value, classes = discriminator.value, discriminator.classes.weight
    for label in range(CLASSES):
        expected = features @ value.weight[0] + value.bias + features @ classes[label]
        found = discriminator(images, torch.full((CLASSES,), label))
        torch.testing.assert_close(found, expected)


def test_every_weight_of_the_discriminator_has_norm_1() -> None:
    discriminator = ProjectionDiscriminator((1, 8, 8), CLASSES, width=0.2)
    images, labels = torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
    # Each forward pass in training takes one power iteration.
    for _ in range(50):
        discriminator(images, labels)
    layers = [layer for layer in discriminator.eval().modules() if hasattr(layer, "parametrizations")]
    assert len(layers) == 3 * 2 + 2, "three convolutions in each of two blocks, the value and the classes"
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert norm.item() == pytest.approx(1, abs=1e-2)


def test_discriminator_leaves_each_image_to_itself() -> None:
    discriminator = ProjectionDiscriminator((1, 8, 8), CLASSES, width=0.1).double().eval()
    images, labels = torch.rand(CLASSES, 1, 8, 8, dtype=torch.float64), torch.arange(CLASSES)
    alone = torch.cat([discriminator(images[[row]], labels[[row]]) for row in range(CLASSES)])
    torch.testing.assert_close(discriminator(images, labels), alone)
