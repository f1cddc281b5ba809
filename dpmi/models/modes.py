"""How a model is run: in evaluation mode, with its noise from a seed, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for as long as the block lasts, then the mode that each layer was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def in_batches(ask: Callable[[Tensor], Tensor], images: Tensor, size: int = 256) -> Tensor:
    """What a model answers about many images, without a graph."""
    return torch.cat([ask(some) for some in torch.split(images, size)])
