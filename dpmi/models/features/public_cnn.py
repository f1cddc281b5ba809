"""A small convolutional extractor, trained on labelled public images that show none of the private classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from accountants import checks
from dpmi.data import Images
from dpmi.data.augment import moved, uniform
from dpmi.progress import Progress

from .extractor import ImageShape

WIDTH = 64
"""Channels of all convolutions but the first, which has half of them."""

SMALLEST_MAP = 3.0
"""Side to which the convolutions bring the smaller side of the images, about."""

Kind = Literal["characters", "photographs"]
"""What the images show, which decides how they are distorted."""

MAX_ROTATION = math.radians(15)
#: Maximum shift, as a fraction of the image's side.
MAX_SHIFT = 0.1
#: Range of the zoom of photographs, and of the zoom and the shear of characters: people write in many sizes and slants.
ZOOM = (0.87, 1.18)
CHARACTER_ZOOM = (0.67, 1.11)
MAX_SHEAR = 0.3
#: Share of the characters whose strokes keep their width; those of the others become wider, by up to two pixels.
THIN = 0.3


class PublicCnn(nn.Sequential):
    """Convolutions with GroupNorm and pooling, then a linear layer with LayerNorm; images (n, C, H, W) to (n, d).

    Args:
        image_shape: (C, H, W).
        size: d.

    >>> network = PublicCnn((1, 28, 28), size=64)
    >>> images = torch.rand(2, 1, 28, 28)
    >>> network(images).shape, network.maps(images).shape
    (torch.Size([2, 64]), torch.Size([2, 576]))
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

    @property
    def maps(self) -> nn.Sequential:
        """The network without the last two layers: it returns the last maps, flattened."""
        return nn.Sequential(*list(self)[:-2])


@dataclass(frozen=True, kw_only=True)
class PublicTraining:
    """How a :class:`PublicCnn` is trained: Adam with one cycle of the learning rate on distorted images.

    Args:
        steps: updates.
        batch_size: images per update.
        learning_rate: largest learning rate.
        size: number d of features.
        kind: "characters" also learns every image turned by 90, 180 and 270 degrees, each as a class of its own, with
            strokes of many widths, sizes and slants; "photographs" are also mirrored.
        seed: seed of weights, batches and distortions.

    >>> training = PublicTraining(steps=200, size=32, kind="photographs")
    >>> training.learning_rate, training.batch_size
    (0.003, 128)
    >>> try:
    ...     PublicTraining(kind="drawings")
    ... except ValueError as error:
    ...     print(error)
    kind must be 'characters' or 'photographs', got 'drawings'
    """

    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 3e-3
    size: int = 64
    kind: Kind = "characters"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "size"):
            checks.integer(name, getattr(self, name), minimum=1)
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be {' or '.join(map(repr, get_args(Kind)))}, got {self.kind!r}")
        if checks.real("learning_rate", self.learning_rate) <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


def train_public_cnn(
    images: Images, labels: Tensor, training: PublicTraining, *, progress: Progress | None = None
) -> PublicCnn:
    """Train an extractor to tell public classes apart.

    Args:
        images: public, float32 (M, C, H, W) in [0, 1].
        labels: int64 (M,), from 0.
        training: steps, learning rate, and what is distorted.
        progress: called with (steps done, steps).

    Raises:
        ValueError: there are fewer than two classes, characters are not square, or the training diverged.

    >>> images, labels = torch.rand(20, 1, 12, 12), torch.arange(20) % 4
    >>> network = train_public_cnn(images, labels, PublicTraining(steps=2, batch_size=8, size=16))  # tiny
    >>> network(images).shape, network.training
    (torch.Size([20, 16]), False)
    """
    channels, height, width = images.shape[1:]
    classes = int(labels.max()) + 1 if len(labels) else 0
    if classes < 2:
        raise ValueError(
            f"an extractor learns to tell public classes apart, and the public images have {classes}; take labelled "
            "images of more classes, or the extractor 'scatter', which needs none"
        )
    characters = training.kind == "characters"
    if characters and height != width:
        raise ValueError(
            f"characters must be square, because they are turned, got {height} x {width}; take kind 'photographs'"
        )
    turns = 4 if characters else 1
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
            distorted = (
                _written(images[rows], turn, generator) if characters else _seen(images[rows], generator)
            )
            inputs = distorted.contiguous(memory_format=torch.channels_last)
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


def _written(images: Tensor, turn: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each character by quarter turns, then rotate, zoom, shear and shift it, and widen its strokes."""
    n = len(images)
    zoom = _between(n, CHARACTER_ZOOM, generator)
    angle = turn * (math.pi / 2) + uniform(n, MAX_ROTATION, generator)
    cos, sin, shear = angle.cos() / zoom, angle.sin() / zoom, uniform(n, MAX_SHEAR, generator)
    matrices = [[cos, shear * cos - sin], [sin, cos + shear * sin]]
    thin_lines = moved(images, matrices, MAX_SHIFT, generator, padding="zeros")
    wider = functional.max_pool2d(thin_lines, kernel_size=3, stride=1, padding=1)
    share, thin = torch.rand(n, generator=generator), torch.rand(n, generator=generator) < THIN
    return torch.lerp(thin_lines, wider, share.masked_fill(thin, 0.0)[:, None, None, None].to(thin_lines))


def _seen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, zoom and shift each photograph, and mirror every second one."""
    n = len(images)
    zoom, angle = _between(n, ZOOM, generator), uniform(n, MAX_ROTATION, generator)
    mirror = 1.0 - 2.0 * torch.randint(2, (n,), generator=generator)
    # The coordinates of affine_grid range from -1 to 1 on both axes, so a rotation must correct the aspect ratio.
    aspect = images.shape[2] / images.shape[3]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrices = [[mirror * cos, -sin * aspect], [mirror * sin / aspect, cos]]
    return moved(images, matrices, MAX_SHIFT, generator, padding="border")


def _between(n: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(n, generator=generator)
