"""Another classification head, for defences that put one in the place of the model's own."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import nn

from dpmi.models import head, layer, replace


class NewHead(nn.Sequential):
    """All layers that stand in the place of a classification head."""


def whole_head(model: nn.Module) -> str:
    """Name of the classification head, or of what a defence has put in its place."""
    return next((name for name, m in model.named_modules() if isinstance(m, NewHead)), head(model))


def replace_head(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put what ``make`` makes of the classification head in its place, in the model itself.

    New weights are drawn from a seed that the old ones decide: two models that are equal get equal heads, models
    from other seeds get others, and the global generators are left alone.

    Args:
        model: its head is the last linear layer.
        make: gets that layer, and returns a module from features (n, d) to logits (n, K).
    """
    name = head(model)
    old = layer(model, name)
    assert isinstance(old, nn.Linear)
    seed = zlib.crc32(old.weight.detach().float().cpu().numpy().tobytes())
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        new = make(old)
    replace(model, name, new.to(old.weight))
