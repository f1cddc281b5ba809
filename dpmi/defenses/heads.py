"""Replacement of the classification head, for defences with their own head."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import nn

from dpmi.models import head, layer, replace


class NewHead(nn.Sequential):
    """The layers that replace a classification head."""


def whole_head(model: nn.Module) -> str:
    """Return the name of the classification head or of its replacement."""
    return next((name for name, m in model.named_modules() if isinstance(m, NewHead)), head(model))


def replace_head(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace the classification head of a model in place.

    The new weights derive from the old ones: equal models get equal heads, models from different seeds get different
    heads. The global generators do not advance.

    Args:
        model: its head is the last linear layer.
        make: maps this layer to a module from features (n, d) to logits (n, K).
    """
    name = head(model)
    old = layer(model, name)
    assert isinstance(old, nn.Linear)
    seed = zlib.crc32(old.weight.detach().float().cpu().numpy().tobytes())
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        new = make(old)
    replace(model, name, new.to(old.weight))
