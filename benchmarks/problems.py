"""The five models and bucket sizes of the engine's benchmark, with random images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from dpmi.models import build
from dpmi.privacy import Partition


@dataclass(frozen=True)
class Problem:
    """A model, the buckets of one logical step, and the limits.

    Args:
        name: name in the table.
        classifier: makes the model in channels_last layout, which is faster for both methods.
        image_shape: (C, H, W).
        classes: number of classes.
        buckets: number of buckets in one logical step.
        mean_size: mean records per bucket; sizes vary from 0.5 to 1.5 times this number, unless ``equal``.
        equal: every bucket has exactly ``mean_size`` records.
        batch_sizes: candidate batch sizes of non-private training.
        private_batch: maximum physical batch of dpmi for the comparison of time.
        record_batch: batch size of the per-record method, which holds one gradient per record.
        physical: physical batch size for the comparison of memory.
        most_time: maximum of time of dpmi / time of non-private training.
        least_speed: minimum of time of the per-record method / time of dpmi.
        most_memory: maximum of (peak of dpmi - one gradient) / peak of non-private training.
    """

    name: str
    classifier: Callable[[], nn.Module]
    image_shape: tuple[int, int, int]
    classes: int
    buckets: int
    mean_size: int
    batch_sizes: tuple[int, ...]
    private_batch: int
    record_batch: int
    physical: int
    most_time: float
    least_speed: float
    most_memory: float
    equal: bool = False

    def data(self) -> tuple[Tensor, Tensor, Partition]:
        """Random images in random order; speed does not depend on their content."""
        draw = np.random.default_rng(0)
        low, high = self.mean_size // 2, self.mean_size * 3 // 2
        sizes = np.full(self.buckets, self.mean_size)
        if not self.equal:
            sizes = draw.integers(low, high + 1, self.buckets)
        partition = Partition.by_column(draw.permutation(np.repeat(np.arange(self.buckets), sizes)))
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(len(partition), *self.image_shape, generator=generator)
        return images, torch.as_tensor(partition.bucket_of % self.classes), partition


def _papers(name: str, shape: tuple[int, int, int], classes: int) -> Callable[[], nn.Module]:
    return lambda: build(name, image_shape=shape, num_classes=classes, seed=0)


def pytorch_example() -> nn.Module:
    """The network of PyTorch's MNIST example, with its dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    ).to(memory_format=torch.channels_last)


class Block(BasicBlock):
    """torchvision's block without in-place additions, which Opacus's hooks do not support."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def group_norm_resnet() -> nn.Module:
    """ResNet-18 for images of 32 x 32, with GroupNorm instead of BatchNorm; its first layers keep the resolution."""
    model = ResNet(
        Block, [2, 2, 2, 2], norm_layer=lambda channels: nn.GroupNorm(32, channels), num_classes=10
    )
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model.to(memory_format=torch.channels_last)


MNIST, FACES = (1, 28, 28), (1, 70, 60)
PROBLEMS = (
    Problem(
        name="MNIST CNN 26 k, 100 x 120",
        classifier=_papers("cnn", MNIST, 10),
        image_shape=MNIST,
        classes=10,
        buckets=100,
        mean_size=120,
        batch_sizes=(128, 256, 512, 1024),
        private_batch=1024,
        record_batch=512,
        physical=512,
        most_time=1.10,
        least_speed=4.5,
        most_memory=1.1,
    ),
    Problem(
        name="CNN 1.2 M, 100 x 120",
        classifier=pytorch_example,
        image_shape=MNIST,
        classes=10,
        buckets=100,
        mean_size=120,
        batch_sizes=(64, 128),
        private_batch=512,
        record_batch=128,
        physical=128,
        most_time=1.05,
        least_speed=9.0,
        most_memory=1.1,
    ),
    Problem(
        name="Faces94 softmax 639 k, 50 x 190",
        classifier=_papers("softmax", FACES, 152),
        image_shape=FACES,
        classes=152,
        buckets=50,
        mean_size=190,
        equal=True,
        batch_sizes=(190, 380, 760, 1520),
        private_batch=512,
        record_batch=190,
        physical=380,
        most_time=1.15,
        least_speed=120.0,
        most_memory=1.1,
    ),
    Problem(
        name="ResNet-18 GroupNorm 32x32, 20 x 32",
        classifier=group_norm_resnet,
        image_shape=(3, 32, 32),
        classes=10,
        buckets=20,
        mean_size=32,
        batch_sizes=(32, 64),
        private_batch=512,
        record_batch=32,
        physical=32,
        most_time=1.05,
        least_speed=4.5,
        most_memory=1.1,
    ),
    Problem(
        name="MNIST CNN 26 k, 3000 x 4",
        classifier=_papers("cnn", MNIST, 10),
        image_shape=MNIST,
        classes=10,
        buckets=3000,
        mean_size=4,
        equal=True,
        batch_sizes=(128, 256, 512, 1024),
        private_batch=512,
        record_batch=512,
        physical=512,
        most_time=1.5,
        least_speed=2.0,
        most_memory=1.5,
    ),
)
