"""Noise inside a forward pass, drawn from a seed instead of the caller's generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Let a forward pass that draws noise draw from the seed; the global generators are put back afterwards.

    Args:
        model: its parameters say on which devices.
        seed: of torch's default generators inside the block.
    """
    cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed every device, and only these are put back.
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
