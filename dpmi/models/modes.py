"""Context managers and a function to run a model: in evaluation mode, with seeded noise, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpmi.data import Images, blocks


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the noise of forward passes inside the block; the global generators are restored afterwards.

    Args:
        model: its parameters determine the devices.
        seed: seed of torch's default generators inside the block.
    """
    cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed every device, but only these are restored.
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards the mode of each layer is restored."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def in_batches(ask: Callable[[Tensor], Tensor], images: Images, size: int = 256) -> Tensor:
    """Return a model's outputs for many images, without gradients."""
    return torch.cat([ask(some) for some in blocks(images, size)])
