"""A classifier that expects other inputs or returns other outputs than attacks do, behind the common interface.

>>> mean, std = NORMALIZATIONS["imagenet"]
>>> model = Preprocessed(nn.Flatten(), mean=mean, std=std)
>>> model(torch.tensor(mean).view(1, 3, 1, 1))  # the mean colour becomes 0
tensor([[0., 0., 0.]])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5": ((0.5,), (0.5,)),
}
"""Mean and standard deviation by name: pixels as they are, torchvision's for ImageNet, and [-1, 1]."""


class Preprocessed(nn.Module):
    """A classifier from images in [0, 1] to logits, made of one that normalises its inputs or ends in a softmax.

    Attacks and metrics use images in [0, 1]. A model that was trained on normalised images recognises nothing in them,
    so every attack on it would seem to fail.

    Args:
        module: maps normalised images (n, C, H, W) to logits or probabilities (n, K).
        mean: of each channel, or one number for all; subtracted from images in [0, 1].
        std: standard deviations, as many, each above 0; what is left is divided by them.
        probabilities: whether ``module`` returns probabilities. Their logarithms are logits, since softmax(log p) = p.
            Where float32 has rounded a probability to 0, the gradient is lost; the model without its softmax has it.

    Raises:
        ValueError: a number is not finite, a standard deviation is not above 0, or the lengths differ.

    >>> model = Preprocessed(nn.Flatten(), mean=(0.5,), std=(0.25,))
    >>> model(torch.tensor([[[[0.5, 0.75]]]]))
    tensor([[0., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        check_normalization(mean, std)
        self.module = module
        self.probabilities = probabilities
        # A state dict of the module alone must fit, and these are settings.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, K) of images (n, C, H, W) in [0, 1].

        Raises:
            ValueError: the images have another number of channels than ``mean``.
        """
        if self.mean.numel() not in (1, images.shape[1]):
            raise ValueError(
                f"normalize has {self.mean.numel()} means, but the images have {images.shape[1]} channels; give one "
                "number, or one per channel"
            )
        found: Tensor = self.module((images - self.mean) / self.std)
        return found.clamp_min(torch.finfo(found.dtype).tiny).log() if self.probabilities else found


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise a ValueError unless images can be normalised by these numbers, one or one per channel.

    >>> check_normalization(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    >>> try:
    ...     check_normalization(mean=[0.5], std=[0.0])
    ... except ValueError as error:
    ...     print(str(error).partition("; ")[2])
    got mean [0.5] and std [0.0]
    """
    numbers = (*mean, *std)
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, numbers)) or min(std) <= 0:
        raise ValueError(
            "normalize needs as many means as standard deviations, one or one per channel, finite, the standard "
            f"deviations above 0; got mean {list(mean)} and std {list(std)}"
        )
