"""MI-Face, the first model inversion attack on images [Fredrikson, Jha, Ristenpart, CCS 2015, Algorithm 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .base import Attack, Candidates, Task
from .checks import at_least_one, check_rate, require
from .stages.descent import descend
from .stages.starts import starting_images
from .target import Target

Process = Literal["identity", "denoise-sharpen"]

#: Each step of "denoise-sharpen" blurs with this standard deviation in pixels, then sharpens by this factor.
DENOISE_SIGMA = 0.5
SHARPEN_FACTOR = 1.5


@dataclass(frozen=True, kw_only=True)
class MIFace(Attack):
    """Plain gradient descent on c(x) = 1 - p_y(x) from a black image, pixels clipped to [0, 1].

    Step i is x_i = PROCESS(x_{i-1} - learning_rate * grad c(x_{i-1})). A search stops when its cost is not smaller
    than any of the last ``window`` costs, or when p_y reaches ``stop_confidence``. The attack returns the visited image
    of smallest cost.

    The paper prints gamma = 0.99 as a threshold on the cost. With this threshold, every search on a model of 40 classes
    stops after one step, because c(0) is about 0.975. This implementation therefore reads it as a confidence.

    >>> from dpmi import models
    >>> target = models.build("softmax", image_shape=(1, 8, 8), num_classes=3, seed=0)
    >>> attack, seed = MIFace(stop_confidence=0.5, learning_rate=1.0), torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.arange(3), image_shape=(1, 8, 8), generator=seed)
    >>> bool((recons.scores >= 0.5).all()), bool((recons.iterations < 100).all())
    (True, True)

    Args:
        iterations: maximum number of steps (alpha of the paper).
        window: number of past costs in the stagnation rule (beta of the paper).
        stop_confidence: confidence p_y at which a search stops, in (0, 1] (1 - gamma).
        learning_rate: step size, pixels per unit of gradient (lambda of the paper).
        process: transformation of the image after each step. ``denoise-sharpen`` is a Gaussian blur and a sharpening
            in pixel space; the paper uses non-local means in the code space of its autoencoder.
        restarts: searches per class; the first starts from black, the others from uniform noise.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "miface"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad"})
    loss: ClassVar[str | None] = "doubt"

    iterations: int = 5000
    window: int = 100
    stop_confidence: float = 0.99
    learning_rate: float = 0.1
    process: Process = "identity"
    restarts: int = 1

    def __post_init__(self) -> None:
        at_least_one(self, "iterations", "window", "restarts")
        require("stop_confidence", self.stop_confidence, 0 < self.stop_confidence <= 1, "in (0, 1]")
        check_rate(self.learning_rate)
        require("process", self.process, self.process in get_args(Process), f"one of {get_args(Process)}")

    def auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return AUXTERM of the paper (n,), a cost of images (n, C, H, W), and its gradient; zero here.

        A subclass with auxiliary information about the class overrides it.
        """
        return images.new_zeros(len(images)), torch.zeros_like(images)

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        start = starting_images(
            labels, first=0.0, restarts=self.restarts, image_shape=task.image_shape, seed=task.seed
        )
        path = _PlainDescent(self, start)
        return descend(
            target, labels, path, iterations=self.iterations, restarts=self.restarts, progress=task.progress
        )


class _PlainDescent:
    """Rows of pixels, and the last costs of each row."""

    def __init__(self, attack: MIFace, start: Tensor) -> None:
        self._attack = attack
        self._images = start
        # Infinite until the window is full, so that the stagnation rule cannot fire earlier.
        self._recent = start.new_full((len(start), attack.window), torch.inf)
        self._visited = 0

    def images(self) -> Tensor:
        return self._images

    def penalty(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self._attack.auxiliary(images)

    def finished(self, costs: Tensor, doubts: Tensor) -> Tensor:
        good_enough = doubts <= 1 - self._attack.stop_confidence
        stagnates = costs >= self._recent.amax(dim=1)
        self._recent[:, self._visited % self._attack.window] = costs
        self._visited += 1
        return good_enough | stagnates

    def step(self, gradient: Tensor) -> None:
        images = self._images - self._attack.learning_rate * gradient
        if self._attack.process == "denoise-sharpen":
            images = F.gaussian_blur(images, kernel_size=[3, 3], sigma=[DENOISE_SIGMA])
            images = F.adjust_sharpness(images.clamp_(0, 1), SHARPEN_FACTOR)
        self._images = images.clamp_(0, 1)

    def keep(self, rows: Tensor) -> None:
        self._images = self._images[rows]
        self._recent = self._recent[rows]
