"""The head, the features and the layers of a classifier, by name.

>>> import torch
>>> from dpmi.models import build, observe
>>> model = build("mlp", image_shape=(1, 8, 8), num_classes=10, seed=0)
>>> with observe(model, [FEATURES]) as found:
...     logits = model(torch.rand(2, 1, 8, 8))
>>> found[FEATURES].shape, feature_size(model)
(torch.Size([2, 3000]), 3000)
"""

from __future__ import annotations

import difflib

from torch import nn

FEATURES = "features"
"""The name of the input of the head, which need not be the output of a layer."""


def layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer of this name.

    Raises:
        ValueError: there is no such layer; the message names the nearest ones.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> layer(model, "1")
    Linear(in_features=64, out_features=10, bias=True)
    """
    layers: dict[str, nn.Module] = {known: m for known, m in model.named_modules() if known}
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=3) or list(layers)[:3]
        raise ValueError(f"the model has no layer {name!r}; the nearest are {', '.join(map(repr, near))}")
    return layers[name]


def head(model: nn.Module) -> str:
    """Return the name of the classification head, the last linear layer.

    Raises:
        ValueError: the model contains no linear layer.

    >>> head(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    '3'
    """
    linear: list[str] = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if not linear:
        raise ValueError(
            "the model has no linear layer, and its last linear layer must be the classification head"
        )
    return linear[-1]


def feature_size(model: nn.Module) -> int:
    """Return the length d of the features, the input of the classification head.

    >>> feature_size(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    32
    """
    found = layer(model, head(model))
    assert isinstance(found, nn.Linear)
    return found.in_features


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replace a layer of the model in place.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> replace(model, head(model), nn.Linear(64, 3))
    >>> model[1].out_features
    3
    """
    layer(model, name)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, new)
