"""Layers of a classifier by name, its head, and another layer in the place of one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpmi.models import feature_size, head, layer, replace


def model() -> nn.Sequential:
    body = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    return nn.Sequential(body, nn.Linear(6, 3), nn.Softmax(dim=1))


def test_a_layer_by_its_name() -> None:
    found = model()
    assert layer(found, "0.1") is found[0][1]
    with pytest.raises(ValueError, match=r"'0\.2'.*'0\.1'"):
        layer(found, "0.2")
    with pytest.raises(ValueError, match="no layer ''"):
        layer(found, "")


def test_the_head_is_the_last_linear_layer() -> None:
    assert (head(model()), feature_size(model())) == ("1", 6)
    with pytest.raises(ValueError, match="linear layer"):
        head(nn.Sequential(nn.Conv2d(1, 2, 3)))
    with pytest.raises(ValueError, match="linear layer"):
        head(nn.Linear(4, 3))


@pytest.mark.parametrize("name", ["0.0", "1"])
def test_another_layer_in_the_place_of_one(name: str) -> None:
    changed, x = model(), torch.rand(2, 4)
    old = layer(changed, name)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, old.out_features)
    others = [m for m in changed.modules() if m is not old]
    replace(changed, name, new)
    assert layer(changed, name) is new
    assert [m for m in changed.modules() if m is not new] == others
    assert changed(x).shape == (2, 3)
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        replace(changed, "nowhere", new)
