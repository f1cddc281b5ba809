"""A classifier of images of another size than those of a study, behind the common interface."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Resized(nn.Module):
    """A classifier of images (n, C, H, W) of any size, made of one for square images of one size.

    Reconstructions have the size of the target's images, and the evaluators of the papers take larger ones: 112x112
    for reconstructions of 64x64. Images are resized with bilinear interpolation, and antialias where they shrink.

    Args:
        module: maps images (n, C, ``side``, ``side``) to logits (n, K).
        side: height and width of its images, in pixels, at least 1.

    Raises:
        ValueError: the side is below 1.

    >>> import torch
    >>> Resized(nn.Flatten(), side=2)(torch.tensor([[[[0.25]]]]))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, module: nn.Module, *, side: int) -> None:
        super().__init__()
        if side < 1:
            raise ValueError(f"side must be at least 1, got {side}")
        self.module = module
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, K) of images (n, C, H, W)."""
        found: Tensor = self.module(
            functional.interpolate(images, size=(self.side, self.side), mode="bilinear", antialias=True)
        )
        return found

    def extra_repr(self) -> str:
        """Return the side for ``repr``."""
        return f"side={self.side}"
