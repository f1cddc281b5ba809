"""The surrogates of LOMMA: networks distilled from the target, so that an attack does not overfit to the target.

N.-B. Nguyen et al., "Re-thinking Model Inversion Attacks Against Deep Neural Networks", CVPR 2023, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks.checks import at_least_one
from dpmi.attacks.target import Target
from dpmi.data import Images

from .base import ImageShape
from .training import BatchPrior, BatchTrainer, soft_labels

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4

#: Channels of the first convolution of the narrowest student; student number n has n times as many.
WIDTH = 16


@dataclass(frozen=True, kw_only=True)
class Surrogates(BatchPrior):
    """Students that minimise KL(softmax T(x) || softmax S(x)) on public images, at temperature 1.

    They are small convolutional networks of increasing width, trained on the same batches. The paper fine-tunes
    EfficientNet-B0, B1 and B2 from ImageNet for 20 passes with learning rate 0.01 to 0.02, on faces. The module is a
    ``torch.nn.ModuleList`` of classifiers. The target is queried once for every public image.

    Args:
        steps: number of batches.
        batch_size: images per batch.
        learning_rate: learning rate of SGD with momentum 0.9 and weight decay 1e-4, as in the paper.
        count: number of students; 3 in the paper.

    Raises:
        ValueError: a value is outside its range.

    >>> from dpmi import models
    >>> from dpmi.attacks.priors import fetch
    >>> model = models.build("softmax", image_shape=(1, 8, 8), num_classes=3, seed=0).eval().requires_grad_(False)
    >>> students = fetch(
    ...     Surrogates(steps=2, count=2), public=torch.rand(20, 1, 8, 8), target=Target(model),
    ...     image_shape=(1, 8, 8), num_classes=3, folder=None, progress=lambda done, total: None)
    >>> [student(torch.rand(5, 1, 8, 8)).shape for student in students]
    [torch.Size([5, 3]), torch.Size([5, 3])]
    """

    name: ClassVar[str] = "surrogates"
    distils: ClassVar[bool] = True

    steps: int = 1000
    learning_rate: float = 0.02
    count: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "count")

    def build(self, image_shape: ImageShape, num_classes: int) -> nn.ModuleList:
        """Return the untrained students, which accept images of any size."""
        students = (student(image_shape[0], num_classes, WIDTH * (row + 1)) for row in range(self.count))
        return nn.ModuleList(students).to(memory_format=torch.channels_last)

    def trainer(self, module: nn.Module, public: Images, target: Target | None) -> BatchTrainer:
        """Return the training of all of them at once."""
        assert isinstance(module, nn.ModuleList)
        assert target is not None
        return _Training(module, public, self, soft_labels(target, public))


class _Training(BatchTrainer):
    def __init__(self, students: nn.ModuleList, public: Images, prior: Surrogates, labels: Tensor) -> None:
        optimizers = {
            f"student {row}": torch.optim.SGD(
                one.parameters(), lr=prior.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
            )
            for row, one in enumerate(students)
        }
        super().__init__(len(public), prior, optimizers)
        self._students = students
        self._public = public
        self._labels = labels

    def losses(self, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
        images, soft = self._public[rows], self._labels[rows]
        for name, one in zip(self.optimizers, self._students, strict=True):
            yield name, F.kl_div(one(images).log_softmax(dim=1), soft, reduction="batchmean")


def student(channels: int, num_classes: int, width: int) -> nn.Sequential:
    """Return three 3x3 convolutions of stride 2 with BatchNorm and ReLU, global average pooling, and a linear layer.

    Args:
        channels: C of the images.
        num_classes: K.
        width: channels of the first convolution; they double with each further convolution.
    """
    sizes = [channels, width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))
