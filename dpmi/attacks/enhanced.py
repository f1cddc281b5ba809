"""The enhanced attack [Z20, Algorithm 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from .base import Attack, Candidates, Task
from .checks import at_least_one, check_rate, require
from .stages.descent import descend
from .stages.regularizers import bilateral_total_variation, l1
from .stages.starts import starting_images
from .target import Target

Regularizer = Literal["l1", "btv"]
Reduction = Literal["mean", "sum"]
Gradient = Literal["x", "w"]

# Constants of Algorithm 1, with the values of section V.
BETA1 = 0.9
BETA2 = 0.999
TAU = 1e-8

_PENALTIES = {"l1": l1, "btv": bilateral_total_variation}


@dataclass(frozen=True, kw_only=True)
class Enhanced(Attack):
    """Adam on c(x) = 1 - p_y(x) + weight * R(x), where x = (tanh(w) + 1) / 2 keeps pixels in [0, 1].

    The search starts from w = 0, a grey image, and updates w -= learning_rate * m / sqrt(v + tau) with Adam's moments
    m and v of the gradient, without bias correction, as in Algorithm 1. The defaults are those of the paper for MNIST;
    for faces the paper uses ``regularizer="btv", weight=0.001, iterations=100, learning_rate=0.05``.

    The attack returns the visited image of smallest cost, x_0 and x_T included. The paper returns x_T. Both are the
    same image if Adam has converged; otherwise x_T is noisier.

    Two settings deviate from the text of the paper or are not specified there. The defaults reproduce its pictures.

    * ``reduction``: the paper prints a sum over pixels. With weight 0.05 this sum dominates 1 - p_y, which is at most
      1: a digit of 100 lit pixels costs 5, a black image 1. On an undefended CNN for 28x28 digits (accuracy 98.9 %) the
      sum gives a black image for 8 to 10 of 10 classes, both as x_T and as the image of smallest cost. The model then
      looks protected although it is not. The mean over pixels gives digits; another classifier reads 9 of 10 correctly.
      On faces the sum gives a nearly flat grey image (mean p_y 0.3), the mean gives faces (0.8).
    * ``gradient``: Algorithm 1 takes the gradient with respect to x and applies it to w. The gradient with respect to
      w has the additional factor 2 x (1 - x): pixels near 0 and 1 hardly move, and T = 5000 steps do not clear the
      background.

    A class whose p_y at the grey image is almost 0 has no gradient there, because 1 - p_y is flat, and stays grey. Its
    score is then low; ``restarts`` give it other starting points.

    Args:
        regularizer: ``l1`` for bright strokes on black, ``btv`` (bilateral total variation) for photographs.
        weight: lambda of the paper, 0 or more.
        reduction: whether the regularizer is the mean or the sum over pixels.
        iterations: T of the paper.
        learning_rate: eta of the paper.
        gradient: with respect to the image x, or to w by the chain rule.
        restarts: searches per class; the first starts from grey, the others from uniform noise. The image of smallest
            cost is kept.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "enhanced"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad"})
    loss: ClassVar[str | None] = "doubt"

    regularizer: Regularizer = "l1"
    weight: float = 0.05
    reduction: Reduction = "mean"
    iterations: int = 5000
    learning_rate: float = 0.1
    gradient: Gradient = "x"
    restarts: int = 1

    def __post_init__(self) -> None:
        for field, choices in (
            ("regularizer", Regularizer),
            ("reduction", Reduction),
            ("gradient", Gradient),
        ):
            value = getattr(self, field)
            require(field, value, value in get_args(choices), f"one of {get_args(choices)}")
        require("weight", self.weight, 0 <= self.weight < math.inf, "0 or more and finite")
        at_least_one(self, "iterations", "restarts")
        check_rate(self.learning_rate)

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        start = starting_images(
            labels, first=0.5, restarts=self.restarts, image_shape=task.image_shape, seed=task.seed
        )
        path = _AdamPath(self, start)
        return descend(
            target, labels, path, iterations=self.iterations, restarts=self.restarts, progress=task.progress
        )


class _AdamPath:
    """Rows of w, and Adam's two moments of each pixel; updated in place, because memory traffic dominates."""

    def __init__(self, attack: Enhanced, start: Tensor) -> None:
        self._attack = attack
        self._penalty = _PENALTIES[attack.regularizer]
        self._weight = attack.weight / (start[0].numel() if attack.reduction == "mean" else 1)
        # atanh is infinite at the ends of the range, which uniform noise can reach.
        self._w = (2 * start - 1).clamp_(-0.999, 0.999).atanh_()
        self._mean = torch.zeros_like(start)
        self._square = torch.zeros_like(start)

    def images(self) -> Tensor:
        return self._w.tanh().add_(1).div_(2)

    def penalty(self, images: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self._penalty(images)
        return value.mul_(self._weight), gradient.mul_(self._weight)

    def finished(self, costs: Tensor, doubts: Tensor) -> Tensor:
        return torch.zeros_like(costs, dtype=torch.bool)

    def step(self, gradient: Tensor) -> None:
        if self._attack.gradient == "w":
            images = self.images()
            gradient = gradient * (2 * images * (1 - images))
        self._mean.lerp_(gradient, 1 - BETA1)
        self._square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        self._w.addcmul_(self._mean, (self._square + TAU).rsqrt_(), value=-self._attack.learning_rate)

    def keep(self, rows: Tensor) -> None:
        self._w, self._mean, self._square = self._w[rows], self._mean[rows], self._square[rows]
