"""The loss of one training, put together from what a defence says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dpmi.data import ImageSet
from dpmi.models import observe

if TYPE_CHECKING:
    from .base import Defense


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss is made of.

    Args:
        images: (n, C, H, W), as the model got them.
        labels: int64 (n,).
        logits: (n, K).
        latents: output (n, ...) of every layer of :meth:`Defense.observed`.
        done: fraction of this stage of the training that is done, in [0, 1): schedules depend on nothing else.
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    latents: dict[str, Tensor]
    done: float


class Objective:
    """The mean loss over one batch.

    Args:
        defense: says what the loss is.
        model: as built, not yet wrapped.
        image_shape: (C, H, W).
        num_classes: K.
        seed: of what it draws itself.
    """

    def __init__(
        self,
        defense: Defense,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
    ) -> None:
        self.defense = defense
        self.layers = defense.observed(model, image_shape)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
        """Run the model, and take the loss of what it says.

        Args:
            model: the module of the session.
            images: (n, C, H, W).
            labels: (n,).
            done: fraction of this stage that is done, in [0, 1).
        """
        batch = self.run(model, images, labels, done)
        return self.defense.criterion(batch).mean() + self.defense.penalty(batch)

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Batch:
        """One forward pass: what the loss is made of."""
        images = self.defense.augment(images)
        with observe(model, self.layers) as latents:
            logits = model(images)
        return Batch(images, labels, logits, latents, done)

    def summary(self, model: nn.Module, data: ImageSet) -> dict[str, float]:
        """Like :meth:`Defense.diagnose`, for numbers that need what was kept in training only.

        Args:
            model: trained, in evaluation mode.
            data: the private training set.
        """
        return {}
