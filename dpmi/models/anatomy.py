"""Which part of a classifier is what: its head, its features, its latents; found without editing the model."""

from __future__ import annotations

import difflib

from torch import nn

FEATURES = "features"
"""Stands for the input of the head, which no layer need have as its output."""


def layer(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name.

    Raises:
        ValueError: there is none; the message has the nearest names.
    """
    layers: dict[str, nn.Module] = {known: m for known, m in model.named_modules() if known}
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=3) or list(layers)[:3]
        raise ValueError(f"the model has no layer {name!r}; the nearest are {', '.join(map(repr, near))}")
    return layers[name]


def head(model: nn.Module) -> str:
    """Name of the classification head: the last linear layer.

    Raises:
        ValueError: the model has no linear layer inside.
    """
    linear: list[str] = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if not linear:
        raise ValueError("the model has no linear layer to take for its classification head")
    return linear[-1]


def feature_size(model: nn.Module) -> int:
    """Length d of the features that the classification head gets."""
    found = layer(model, head(model))
    assert isinstance(found, nn.Linear)
    return found.in_features


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put another layer in the place of one, in the model itself."""
    layer(model, name)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, new)
