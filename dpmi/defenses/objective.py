"""The loss of a training, assembled from the hooks of a defence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dpmi.data import ImageSet
from dpmi.models import observe
from dpmi.precision import Precision, forward_in, widened


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a loss.

    Args:
        images: (n, C, H, W), the model's input; (n, d, 1, 1) if a head is trained on known features.
        labels: int64 (n,).
        logits: (n, K).
        latents: output (n, ...) of every layer of :meth:`Defense.observed`.
        done: completed fraction of this training stage, in [0, 1); schedules may depend on nothing else.

    >>> import torch
    >>> from dpmi.defenses import NoDefense
    >>> images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    >>> batch = Batch(images, labels, logits=torch.tensor([[1.0, 0.0], [1.0, 0.0]]), latents={}, done=0.5)
    >>> NoDefense().criterion(batch)
    tensor([0.3133, 1.3133])
    """

    images: Tensor
    labels: Tensor
    logits: Tensor
    latents: dict[str, Tensor]
    done: float


class LossHooks(Protocol):
    """The hooks of a defence that a loss uses; see :class:`dpmi.defenses.Defense`."""

    @property
    def plain_loss(self) -> bool:
        """Whether the loss is the cross-entropy alone."""

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Return the layers whose outputs the loss needs."""

    def augment(self, images: Tensor) -> Tensor:
        """Return the images that the model gets."""

    def criterion(self, batch: Batch) -> Tensor:
        """Return the loss of each record (n,)."""

    def penalty(self, batch: Batch) -> Tensor | float:
        """Return what is added to the mean loss."""


Outputs = tuple[Tensor, Tensor, dict[str, Tensor]]
"""The model's input images, logits and latents of one forward pass: the inputs of a loss besides the labels."""


class Loss:
    """The mean loss over records, from the outputs of one forward pass.

    Args:
        defense: defines the loss.

    Attributes:
        done: completed fraction of the stage, in [0, 1). The training loop sets it before each batch.
    """

    def __init__(self, defense: LossHooks) -> None:
        self.defense = defense
        self.done = 0.0

    def __call__(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            outputs: outputs of the forward pass.
            labels: int64 (n,).
        """
        images, logits, latents = outputs
        batch = Batch(images, labels, logits, latents, self.done)
        return self.defense.criterion(batch).mean() + self.defense.penalty(batch)


class Objective:
    """The mean loss over one batch, including the forward pass.

    Args:
        defense: defines the loss.
        model: as built, not yet wrapped.
        image_shape: (C, H, W).
        num_classes: K.
        seed: seed of the objective's own draws.

    Attributes:
        precision: of the model's forward pass; the training loop sets it.

    >>> import torch
    >>> from dpmi import models
    >>> from dpmi.defenses import NoDefense
    >>> model = models.build("linear", image_shape=(1, 8, 8), num_classes=10, seed=0)  # its logits are 0 at first
    >>> objective = Objective(NoDefense(), model, (1, 8, 8), num_classes=10, seed=0)
    >>> round(objective(model, torch.rand(4, 1, 8, 8), torch.arange(4), done=0.0).item(), 4)  # ln 10
    2.3026
    """

    precision: Precision = "float32"

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
        """Run the model and return its loss.

        Args:
            model: the module of the session.
            images: (n, C, H, W).
            labels: (n,).
            done: completed fraction of this stage, in [0, 1).
        """
        self.loss.done = done
        return self.loss(self._outputs(model, images), labels)

    def run(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Batch:
        """Run one forward pass and return the inputs of the loss."""
        images, logits, latents = self._outputs(model, images)
        return Batch(images, labels, logits, latents, done)

    def _outputs(self, model: nn.Module, images: Tensor) -> Outputs:
        with forward_in(self.precision, images.device):
            images, logits, latents = _outputs(model, images, self.defense, self.layers)
        return images, widened(logits), {name: widened(latent) for name, latent in latents.items()}

    def summary(self, model: nn.Module, data: ImageSet) -> dict[str, float]:
        """Return diagnostics, like :meth:`Defense.diagnose`, that need the state kept during training.

        Args:
            model: trained, in evaluation mode.
            data: the private training set.
        """
        return {}


class Forward(nn.Module):
    """A model that returns all inputs of its loss, for a privacy engine that tracks what is computed from records.

    Args:
        model: as built.
        objective: the objective of its training.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.defense = objective.defense
        self.layers = objective.layers

    def forward(self, images: Tensor) -> Outputs | Tensor:
        """Augment the images (n, C, H, W) and run the model; return only the logits if the loss needs nothing else."""
        outputs = _outputs(self.model, images, self.defense, self.layers)
        return outputs[1] if self.defense.plain_loss else outputs


def _outputs(model: nn.Module, images: Tensor, defense: LossHooks, layers: tuple[str, ...]) -> Outputs:
    images = defense.augment(images)
    with observe(model, layers) as latents:
        logits = model(images)
    return images, logits, latents
