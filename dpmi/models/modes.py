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

    >>> noisy = nn.Dropout(0.5)
    >>> draws = []
    >>> for _ in range(2):
    ...     with seeded(noisy, seed=3):
    ...         draws.append(noisy(torch.ones(100)))
    >>> torch.equal(*draws)
    True
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
    """Evaluation mode inside the block; afterwards the mode of each layer is restored.

    >>> model = nn.Sequential(nn.Dropout(0.5)).train()
    >>> with evaluating(model):
    ...     model(torch.ones(3))
    tensor([1., 1., 1.])
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none.

    >>> device_of(nn.Linear(2, 2)), device_of(nn.Flatten())
    (device(type='cpu'), device(type='cpu'))
    """
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def in_batches(ask: Callable[[Tensor], Tensor], images: Images, size: int = 256) -> Tensor:
    """Return a model's outputs for many images, without gradients.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> found = in_batches(model, torch.rand(500, 1, 2, 2), size=128)
    >>> found.shape, found.requires_grad
    (torch.Size([500, 3]), False)
    """
    found = Gathered(len(images))
    for some in blocks(images, size):
        found.add(ask(some))
    return found.whole


class Gathered:
    """The outputs of many batches in one tensor, which is allocated at the first batch.

    Small outputs that are kept one by one lie between the freed buffers of the batches, which malloc then cannot join
    for larger ones, so that the memory would grow with every batch.

    Args:
        count: number of images of all batches.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        self._whole: Tensor | None = None

    def add(self, part: Tensor) -> None:
        """Append the outputs (n, ...) of a batch."""
        if self._whole is None:
            self._whole = part.new_empty(self._count, *part.shape[1:])
        self._whole[self._done : self._done + len(part)] = part
        self._done += len(part)

    @property
    def whole(self) -> Tensor:
        """The outputs of all batches, of which there must be one."""
        assert self._whole is not None
        return self._whole[: self._done]
