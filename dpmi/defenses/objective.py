"""The loss of one training, put together from what a defence says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dpmi.data import ImageSet
from dpmi.models import observe


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


class LossHooks(Protocol):
    """What a loss asks of a defence; :class:`dpmi.defenses.Defense` says what each does."""

    @property
    def plain_loss(self) -> bool: ...  # noqa: D102

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]: ...  # noqa: D102

    def augment(self, images: Tensor) -> Tensor: ...  # noqa: D102

    def criterion(self, batch: Batch) -> Tensor: ...  # noqa: D102

    def penalty(self, batch: Batch) -> Tensor | float: ...  # noqa: D102


Outputs = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Images as the model got them, logits, and latents of one forward pass: what a loss gets besides labels."""


class Loss:
    """The mean loss over some records, out of one forward pass.

    Args:
        defense: says what the loss is.

    Attributes:
        done: fraction of the stage that is done, in [0, 1). The training loop sets it before each batch.
    """

    def __init__(self, defense: LossHooks) -> None:
        self.defense = defense
        self.done = 0.0

    def __call__(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            outputs: of the forward pass.
            labels: int64 (n,).
        """
        images, logits, latents = outputs
        batch = Batch(images, labels, logits, latents, self.done)
        return self.defense.criterion(batch).mean() + self.defense.penalty(batch)


class Objective:
    """The mean loss over one batch, and the forward pass that it takes.

    Args:
        defense: says what the loss is.
        model: as built, not yet wrapped.
        image_shape: (C, H, W).
        num_classes: K.
        seed: of what it draws itself.
    """

    def __init__(
        self,
        defense: LossHooks,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
    ) -> None:
        self.defense = defense
        self.layers = defense.observed(model, image_shape)
        self.loss = Loss(defense)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
        """Run the model, and take the loss of what it says.

        Args:
            model: the module of the session.
            images: (n, C, H, W).
            labels: (n,).
            done: fraction of this stage that is done, in [0, 1).
        """
        self.loss.done = done
        return self.loss(_outputs(model, images, self.defense, self.layers), labels)

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Batch:
        """One forward pass: what the loss is made of."""
        images, logits, latents = _outputs(model, images, self.defense, self.layers)
        return Batch(images, labels, logits, latents, done)

    def summary(self, model: nn.Module, data: ImageSet) -> dict[str, float]:
        """Like :meth:`Defense.diagnose`, for numbers that need what was kept in training only.

        Args:
            model: trained, in evaluation mode.
            data: the private training set.
        """
        return {}


class Forward(nn.Module):
    """A model that returns all that its loss needs, for a privacy engine that follows what is computed of the records.

    Args:
        model: as built.
        objective: of its training.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.defense = objective.defense
        self.layers = objective.layers

    def forward(self, images: Tensor) -> Outputs | Tensor:
        """Augment the images (n, C, H, W) and run the model; logits only where these are all that the loss needs."""
        outputs = _outputs(self.model, images, self.defense, self.layers)
        return outputs[1] if self.defense.plain_loss else outputs


def _outputs(model: nn.Module, images: Tensor, defense: LossHooks, layers: tuple[str, ...]) -> Outputs:
    images = defense.augment(images)
    with observe(model, layers) as latents:
        logits = model(images)
    return images, logits, latents
