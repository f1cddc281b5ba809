"""Building a classifier by name, its weights drawn from a seed of their own."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from dpmi.models.layers import ImageShape, cnn, cnn_compact, cnn_small, mlp, softmax, softmax_normalized


class _Model(NamedTuple):
    description: str
    smallest_side: int
    layers: Callable[[ImageShape, int], nn.Sequential]

    def fits(self, image_shape: tuple[int, ...]) -> bool:
        return len(image_shape) == 3 and image_shape[0] >= 1 and min(image_shape[1:]) >= self.smallest_side


_MODELS = {
    "cnn": _Model(
        "two convolutions, two fully connected layers, ReLU (28x28: MNIST)",
        14,
        partial(cnn, activation=nn.ReLU),
    ),
    "cnn-tanh": _Model(
        "cnn with Tanh, more accurate under DP-SGD (Papernot et al.)", 14, partial(cnn, activation=nn.Tanh)
    ),
    "cnn-small": _Model("two convolutions, two fully connected layers (8x8: digits)", 2, cnn_small),
    "cnn-compact": _Model(
        "two convolutions, two fully connected layers, few parameters for noisy gradients", 8, cnn_compact
    ),
    "softmax": _Model("softmax regression", 1, softmax),
    "softmax-normalized": _Model(
        "softmax regression on images of mean 0 and variance 1", 1, softmax_normalized
    ),
    "mlp": _Model("one hidden layer of 3,000 sigmoid units (Fredrikson et al.)", 1, mlp),
}

#: One line per model, for listings.
MODELS: dict[str, str] = {name: model.description for name, model in _MODELS.items()}


def names() -> list[str]:
    """Return the names that :func:`build` takes."""
    return list(MODELS)


def build(name: str, *, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> nn.Module:
    """Build a classifier that maps images ``(n, C, H, W)`` in [0, 1] to logits ``(n, num_classes)``.

    Args:
        name: one of :func:`names`.
        image_shape: (C, H, W).
        num_classes: K, at least 2.
        seed: decides the initial weights; the global generators are neither read nor moved.

    Returns:
        An ``nn.Sequential`` on the CPU, in training mode.

    Raises:
        ValueError: an unknown name, fewer than two classes, or images too small for the model.

    >>> model = build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=0)
    >>> sum(p.numel() for p in model.parameters())
    650
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; the models are {', '.join(names())}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got {num_classes}")
    model = _MODELS[name]
    if not model.fits(image_shape):
        fitting = [other for other, entry in _MODELS.items() if entry.fits(image_shape)]
        raise ValueError(
            f"model {name!r} takes images (C, H, W) with H and W at least {model.smallest_side}; "
            f"got image_shape={tuple(image_shape)}, which fits {', '.join(fitting) or 'no model'}"
        )
    # torch.manual_seed would seed the GPUs too, which this fork does not restore.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        # In channels_last, convolutions of few channels train 1.6 to 2.6 times as fast on a CPU.
        return model.layers(image_shape, num_classes).to(memory_format=torch.channels_last)
