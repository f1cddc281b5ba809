"""Recognisers of faces: the improved residual block is its formula, and the small network learns."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

from dpmi import data, metrics
from dpmi.defenses import NoDefense, Recipe, train
from dpmi.models import build
from dpmi.models.faces import ImprovedResidualBlock

from .test_papers import FACES


def test_ir152_is_named_after_its_layers_with_weights() -> None:
    model = build("ir152", image_shape=FACES, num_classes=3, seed=0)
    blocks = [m for m in model.modules() if isinstance(m, ImprovedResidualBlock)]
    # Two convolutions per block, the stem, and the embedding.
    assert 2 * len(blocks) + 2 == 2 * (3 + 8 + 36 + 3) + 2 == 102
    # The published name counts the three of a bottleneck, which the published network does not have.
    assert 3 * len(blocks) + 2 == 152


def test_improved_residual_block_is_its_formula() -> None:
    block = ImprovedResidualBlock(2, 4, stride=2).eval()
    x = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    first, second = block.residual[1], block.residual[3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    # Fresh BatchNorm in evaluation mode divides by sqrt(1 + eps).
    shrink = (1 + 1e-5) ** -0.5
    inner: Tensor = nn.functional.conv2d(x * shrink, first.weight, padding=1)
    inner = torch.where(inner > 0, inner, 0.25 * inner)
    residual = nn.functional.conv2d(inner, second.weight, stride=2, padding=1) * shrink
    assert isinstance(block.shortcut, nn.Sequential)
    projection = nn.functional.conv2d(x, block.shortcut[0].weight, stride=2) * shrink
    torch.testing.assert_close(block(x), residual + projection)
    same = ImprovedResidualBlock(2, 2, stride=2).eval()
    torch.nn.init.zeros_(same.residual[3].weight)
    torch.testing.assert_close(same(x), x[:, :, ::2, ::2])


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("DPMI_DATA"), reason="DPMI_DATA is not set: this test reads AT&T's faces"
)
def test_the_cnn_for_faces_recognises_people() -> None:
    split = data.load("att-faces")
    model = build("cnn-faces", image_shape=split.image_shape, num_classes=split.num_classes, seed=0)
    trained = train(
        NoDefense(), model, split.train, Recipe(steps=300, learning_rate=0.05, batch_size=32), seed=0
    )
    assert metrics.accuracy(trained.model, split.test.images, split.test.labels) > 0.9
