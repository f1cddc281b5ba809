from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dpmi import models
from dpmi.models import Resized

IMAGES = torch.rand(3, 3, 12, 9, generator=torch.Generator().manual_seed(0))


def by_pillow(channel: torch.Tensor, side: int) -> torch.Tensor:
    """Pillow's bilinear filter, with antialias where the image shrinks."""
    image = Image.fromarray(channel.numpy(), mode="F").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("side", [1, 5, 9, 12, 30])
def test_resizes_as_pillow_does(side: int) -> None:
    found = Resized(nn.Identity(), side=side)(IMAGES)
    expected = torch.stack([torch.stack([by_pillow(one, side) for one in each]) for each in IMAGES])
    assert found.shape == (3, 3, side, side)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_module_is_inside_with_its_head_and_its_state() -> None:
    module = models.build("cnn", image_shape=(3, 16, 16), num_classes=5, seed=0).eval()
    wrapped = Resized(module, side=16)
    assert models.head(wrapped) == f"module.{models.head(module)}"
    assert {name.removeprefix("module.") for name in wrapped.state_dict()} == set(module.state_dict())
    larger = torch.stack([torch.stack([by_pillow(one, 16) for one in each]) for each in IMAGES])
    torch.testing.assert_close(wrapped(IMAGES), module(larger), atol=1e-5, rtol=1e-4)
    assert "side=16" in repr(wrapped)


def test_a_side_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        Resized(nn.Identity(), side=0)
