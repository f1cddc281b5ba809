"""The two layers that a style-based generator and its discriminator share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Slope of the leaky ReLU below zero.
SLOPE = 0.2


class FullyConnected(nn.Module):
    """A linear layer with N(0, 1) weights that are scaled at run time, which equalizes Adam's steps of all layers."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.rate = rate
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs) for x (n, inputs)."""
        scale = self.rate / math.sqrt(self.weight.shape[1])
        x = F.linear(x, self.weight * scale, self.bias * self.rate)
        return activation(x) if self.activate else x


def activation(x: Tensor) -> Tensor:
    """Return the leaky ReLU, scaled to preserve the scale of its input."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2)
