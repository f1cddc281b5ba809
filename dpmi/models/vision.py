"""Torchvision's classifiers by name, for any number of channels and classes."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from .classifiers import ImageShape
from .modes import evaluating

PREFIX = "torchvision/"
"""Prefix of torchvision's names, as in ``torchvision/resnet18``."""

#: Options that omit the auxiliary heads, which would return a second result.
_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}

Model = TypeVar("Model", bound=nn.Module)


def check_torchvision(name: str) -> None:
    """Raise an error for a name that is not a torchvision classifier.

    Raises:
        ValueError: the name is unknown; the message names the nearest ones.
    """
    known = [PREFIX + own for own in _classifiers()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or [f"{PREFIX}resnet18", f"{PREFIX}vit_b_16"]
        raise ValueError(f"unknown model {name!r}; the nearest torchvision models are {', '.join(near)}")


def torchvision_classifier(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build a torchvision classifier with initial weights.

    Args:
        name: the name with the prefix.
        image_shape: (C, H, W). Networks for a fixed image size are built for this size.
        num_classes: K.

    Raises:
        ValueError: the name is unknown, or the network does not accept the image size.
    """
    check_torchvision(name)
    own = name.removeprefix(PREFIX)
    channels, height, side = image_shape
    options: dict[str, Any] = dict(_AUXILIARY.get(own, {}))
    if own.startswith("vit_"):
        options["image_size"] = height
    elif own.startswith("maxvit_"):
        options["input_size"] = (height, side)
    try:
        model: nn.Module = get_model(own, weights=None, num_classes=num_classes, **options)
        take_channels(model, channels)
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *image_shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model {name!r} does not accept images (C, H, W) = {tuple(image_shape)}: {reason}"
        ) from error
    return model


def take_channels(model: Model, channels: int) -> Model:
    """Set the number of input channels of the first convolution in place; see :func:`for_channels`."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    first.weight = nn.Parameter(for_channels(first.weight.detach(), channels))
    first.in_channels = channels
    return model


def for_channels(weight: Tensor, channels: int) -> Tensor:
    """Return the kernels (out, 3, ...) of a convolution on colour images as kernels (out, ``channels``, ...).

    The output for a grey image, repeated in every channel, does not depend on the number of channels.
    """
    colours = weight.shape[1]
    if channels == colours:
        return weight
    return weight.mean(1, keepdim=True).expand(-1, channels, -1, -1) * (colours / channels)


def _classifiers() -> list[str]:
    found: list[str] = list_models(module=torchvision.models)
    return found
