"""A small convolutional extractor, trained on labelled public images that show none of the private classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from accountants import checks
from dpmi.progress import Progress

from .extractor import ImageShape

WIDTH = 64
"""Channels of all convolutions but the first, which has half of them."""

SMALLEST_MAP = 3.0
"""Side to which the convolutions bring the smaller side of the images, about."""

MAX_ROTATION = math.radians(15)
MAX_ZOOM = 0.15
#: Maximum shift, as a fraction of the image's side.
MAX_SHIFT = 0.1


class PublicCnn(nn.Sequential):
    """Convolutions with GroupNorm and pooling, then a linear layer with LayerNorm; images (n, C, H, W) to (n, d).

    Args:
        image_shape: (C, H, W).
        size: d.
    """

    def __init__(self, image_shape: ImageShape, size: int) -> None:
        channels, height, width = image_shape
        stages = max(2, round(math.log2(min(height, width) / SMALLEST_MAP)))
        layers: list[nn.Module] = []
        for stage in range(stages):
            wide = WIDTH // 2 if stage == 0 else WIDTH
            layers += [
                nn.Conv2d(channels, wide, 3, padding=1, bias=False),
                nn.GroupNorm(8, wide),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = wide
        maps = channels * (height >> stages) * (width >> stages)
        super().__init__(*layers, nn.Flatten(), nn.Linear(maps, size), nn.LayerNorm(size))


@dataclass(frozen=True, kw_only=True)
class PublicTraining:
    """How a :class:`PublicCnn` is trained: Adam with one cycle of the learning rate on distorted images.

    Args:
        steps: updates.
        batch_size: images per update.
        learning_rate: largest learning rate.
        size: number d of features.
        rotated: also learns every image turned by 90, 180 and 270 degrees, each as a class of its own: for characters,
            whose classes are few. Otherwise images are also mirrored: for photographs.
        seed: seed of weights, batches and distortions.
    """

    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 3e-3
    size: int = 64
    rotated: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "size"):
            checks.integer(name, getattr(self, name), minimum=1)
        if checks.real("learning_rate", self.learning_rate) <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


def train_public_cnn(
    images: Tensor, labels: Tensor, training: PublicTraining, *, progress: Progress | None = None
) -> PublicCnn:
    """Train an extractor to tell public classes apart.

    Args:
        images: public, float32 (M, C, H, W) in [0, 1].
        labels: int64 (M,), from 0.
        training: steps, learning rate, and what is distorted.
        progress: called with (steps done, steps).

    Raises:
        ValueError: there are fewer than two classes, images are not square although ``rotated``, or the training
            diverged.
    """
    channels, height, width = images.shape[1:]
    classes = int(labels.max()) + 1 if len(labels) else 0
    if classes < 2:
        raise ValueError(
            f"an extractor learns to tell public classes apart, and the public images have {classes}; take labelled "
            "images of more classes, or the extractor 'scatter', which needs none"
        )
    if training.rotated and height != width:
        raise ValueError(f"rotated images must be square, got {height} x {width}; set rotated = false")
    turns = 4 if training.rotated else 1
    generator = torch.Generator().manual_seed(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed)
        body = PublicCnn((channels, height, width), training.size)
        top = nn.Linear(training.size, classes * turns)
    # In channels_last, convolutions with few channels train twice as fast on a CPU.
    whole = nn.Sequential(body, top).to(images.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(whole.parameters(), lr=training.learning_rate)
    schedule = OneCycleLR(optimizer, training.learning_rate, total_steps=training.steps + 1)
    with torch.enable_grad():
        for step in range(training.steps):
            if progress is not None:
                progress(step, training.steps)
            rows = torch.randint(len(images), (training.batch_size,), generator=generator)
            turn = torch.randint(turns, (training.batch_size,), generator=generator)
            inputs = _distorted(images[rows], turn, generator, mirrored=not training.rotated)
            loss = functional.cross_entropy(whole(inputs), labels[rows] + classes * turn.to(labels.device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    if not math.isfinite(loss.item()):
        raise ValueError(
            f"the training of the extractor diverged: its loss is {loss.item()} after {training.steps} steps; lower "
            f"learning_rate ({training.learning_rate:g})"
        )
    if progress is not None:
        progress(training.steps, training.steps)
    return body.eval()


def _distorted(images: Tensor, turn: Tensor, generator: torch.Generator, *, mirrored: bool) -> Tensor:
    """Turn each image by quarter turns, then rotate, zoom, shift and perhaps mirror it by a draw of its own."""
    n = len(images)

    def uniform(bound: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * bound

    angle = turn * (math.pi / 2) + uniform(MAX_ROTATION)
    zoom = 1 + uniform(MAX_ZOOM)
    mirror = 1.0 - 2.0 * torch.randint(2, (n,), generator=generator) if mirrored else torch.ones(n)
    # The coordinates of affine_grid range from -1 to 1 on both axes, so a rotation must correct the aspect ratio.
    aspect = images.shape[2] / images.shape[3]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrices = torch.stack(
        [
            torch.stack([mirror * cos, -sin * aspect, 2 * uniform(MAX_SHIFT)], dim=1),
            torch.stack([mirror * sin / aspect, cos, 2 * uniform(MAX_SHIFT)], dim=1),
        ],
        dim=1,
    ).to(images)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)
