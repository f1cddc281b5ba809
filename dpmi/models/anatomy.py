"""The head, the features and the layers of a classifier, by name."""

from __future__ import annotations

import difflib

from torch import nn

FEATURES = "features"
"""The name of the input of the head, which need not be the output of a layer."""


def layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer of this name.

    Raises:
        ValueError: there is no such layer; the message names the nearest ones.
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
    """
    linear: list[str] = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if not linear:
        raise ValueError(
            "the model has no linear layer, and its last linear layer must be the classification head"
        )
    return linear[-1]


def feature_size(model: nn.Module) -> int:
    """Return the length d of the features, the input of the classification head."""
    found = layer(model, head(model))
    assert isinstance(found, nn.Linear)
    return found.in_features


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replace a layer of the model in place."""
    layer(model, name)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, new)
