"""Face recognisers: the improved residual networks of the attack papers, and a small network for grey photographs."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from .classifiers import ImageShape, width

#: Length of the embedding, the input of the head.
_EMBEDDING = 512

#: Channels of the stem and of the four stages.
_CHANNELS = (64, 64, 128, 256, 512)


def improved_residual(
    image_shape: ImageShape, num_classes: int, blocks: tuple[int, int, int, int]
) -> nn.Sequential:
    """Return four stages of improved residual blocks, an embedding of length 512, and the head.

    IR-50, with (3, 4, 14, 3) blocks, is FaceNet64 at 64 pixels and the evaluation classifier FaceNet at 112 pixels
    (Y. Cheng et al., "Know You at One Glance", ICCV workshops 2017); IR-152 has (3, 8, 36, 3) blocks. At 64 pixels and
    1,000 classes they have 35.4 and 62.6 million parameters, as reported by TL-DMI.

    Args:
        image_shape: (C, H, W); the embedding has weights for every position of the last map, H / 16 x W / 16.
        num_classes: K.
        blocks: number of blocks in each stage; the first block of a stage halves the resolution.
    """
    body = OrderedDict[str, nn.Module](
        stem=nn.Sequential(
            nn.Conv2d(image_shape[0], _CHANNELS[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(_CHANNELS[0]),
            nn.PReLU(_CHANNELS[0]),
        )
    )
    for stage, (number, (before, after)) in enumerate(zip(blocks, pairwise(_CHANNELS), strict=True), start=1):
        first = ImprovedResidualBlock(before, after, stride=2)
        others = (ImprovedResidualBlock(after, after, stride=1) for _ in range(number - 1))
        body[f"stage{stage}"] = nn.Sequential(first, *others)
    body["bn"] = nn.BatchNorm2d(_CHANNELS[-1])
    body["dropout"] = nn.Dropout()
    body["flatten"] = nn.Flatten()
    body["embedding"] = nn.Linear(width(body.values(), image_shape), _EMBEDDING)
    body["embedding_bn"] = nn.BatchNorm1d(_EMBEDDING)
    body["fc"] = nn.Linear(_EMBEDDING, num_classes)
    return nn.Sequential(body)


class ImprovedResidualBlock(nn.Module):
    """BatchNorm, convolution, PReLU, convolution, BatchNorm, and a shortcut without activation.

    J. Deng et al., "ArcFace", CVPR 2019, section 3.1.

    Args:
        channels: channels of the input.
        features: channels of the output.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, channels: int, features: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, features, 3, padding=1, bias=False),
            nn.PReLU(features),
            nn.Conv2d(features, features, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(features),
        )
        if channels == features:
            self.shortcut: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, features, 1, stride=stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, features, H / stride, W / stride) for x (n, channels, H, W)."""
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


def cnn_faces(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return four convolutions with GroupNorm and the head, for grey faces such as AT&T's; no layer couples records.

    Each photograph is first normalized to mean 0 and variance 1, as in ``softmax-normalized``.
    """
    body = OrderedDict[str, nn.Module](
        normalize=nn.LayerNorm(image_shape, eps=1e-3, elementwise_affine=False)
    )
    for stage, (before, after) in enumerate(pairwise((image_shape[0], 16, 32, 64, 64)), start=1):
        body[f"stage{stage}"] = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()
        )
    body["flatten"] = nn.Flatten()
    body["fc"] = nn.Linear(width(body.values(), image_shape), num_classes)
    return nn.Sequential(body)
