"""The attacked model as an attack sees it: confidences and gradients, every record of them counted."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Target:
    """A frozen classifier that counts what it is asked.

    Args:
        module: maps images (n, C, H, W) to logits (n, K); in evaluation mode, parameters frozen.
    """

    def __init__(self, module: nn.Module) -> None:
        """Start counting at zero."""
        self._module = module
        self._memory_format = torch.channels_last
        self.queries = 0
        self.grad_calls = 0

    def probe(self, image_shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Return the logits of two black images; 2 queries, or 4 if the module needs contiguous images.

        Convolutions and pooling are a fifth faster on channels_last images, but a module that reshapes with
        ``view`` refuses them. Which it is is found out here, once; the numbers are the same up to rounding.
        """
        black = torch.zeros(2, *image_shape, device=device)
        try:
            return self.logits(black)
        except RuntimeError:
            self._memory_format = torch.contiguous_format
            return self.logits(black)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (n, K) for images (n, C, H, W); n queries."""
        self.queries += len(images)
        # `images.to` sees no difference where there is one channel, but the kernels look at the strides.
        arranged = torch.empty(
            images.shape, dtype=images.dtype, device=images.device, memory_format=self._memory_format
        )
        logits: Tensor = self._module(arranged.copy_(images))
        return logits

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return p_y (n,), the softmax probability of each label (n,) in its image; n queries."""
        with torch.no_grad():
            return _pick(self.logits(images), labels)

    def confidence_and_gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_y (n,) and its gradient by the images (n, C, H, W); n queries, n gradient calls.

        The network treats the images one by one (evaluation mode), so one backward pass serves all of them.
        """
        images = images.detach().requires_grad_()
        confidence = _pick(self.logits(images), labels)
        # Only the images' gradient: parameter gradients would cost a fifth more and be thrown away.
        (gradient,) = torch.autograd.grad(confidence.sum(), images)
        self.grad_calls += len(images)
        return confidence.detach(), gradient


def _pick(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
