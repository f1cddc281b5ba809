"""Trap-MID ([LC24]): a shortcut to every class, which an attack finds before it reconstructs private images.

[LC24] Z.-T. Liu, S.-T. Chen, "Trap-MID: Trapdoor-based Defense against Model Inversion Attacks", NeurIPS 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accountants import checks
from dpmi.data import ImageSet, blocks
from dpmi.models import evaluating

from .base import Defense
from .objective import Batch, Objective

#: Not from [LC24], where the discriminator has the model's architecture and optimizer.
_DISCRIMINATOR_LEARNING_RATE = 1e-3


class TrapdoorObjective(Objective):
    """Trains the triggers and their discriminator along with the model; neither is part of the model.

    Args:
        defense: a :class:`Trapdoor`, or a composition with one.
        model: as built, not yet wrapped.
        image_shape: (C, H, W).
        num_classes: K.
        seed: seed of the initial triggers, the discriminator, and the target classes of trapped images.
    """

    def __init__(
        self,
        defense: Defense,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
    ) -> None:
        super().__init__(defense, model, image_shape, num_classes, seed)
        self.settings = cast("Trapdoor", defense)
        self.generator = torch.Generator().manual_seed(seed)
        device = next(model.parameters()).device
        self.triggers = torch.rand(num_classes, *image_shape, generator=self.generator).to(device)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            self.discriminator = _discriminator(image_shape[0]).to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=_DISCRIMINATOR_LEARNING_RATE)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
        """Take one step of the discriminator and one of the triggers, then return the loss with the new triggers."""
        targets = torch.randint(len(self.triggers), labels.shape, generator=self.generator).to(labels.device)
        self._update(model, images, targets, done)
        # One forward pass, so that BatchNorm normalizes both kinds of images together, as in the code of [LC24].
        both = torch.cat([images, self.trapped(images, targets)])
        batch = self.run(model, both, torch.cat([labels, targets]), done)
        n = len(images)
        clean = Batch(
            batch.images[:n],
            labels,
            batch.logits[:n],
            {layer: latent[:n] for layer, latent in batch.latents.items()},
            done,
        )
        losses = self.defense.criterion(batch)
        weight = self.settings.trapdoor_weight
        return (1 - weight) * losses[:n].mean() + weight * losses[n:].mean() + self.defense.penalty(clean)

    def trapped(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return images (n, C, H, W) with the triggers of the classes ``targets`` (n,) blended in."""
        ratio = self.settings.blend_ratio
        return (1 - ratio) * images + ratio * self.triggers[targets]

    def _update(self, model: nn.Module, images: Tensor, targets: Tensor, done: float) -> None:
        self.triggers.requires_grad_()
        trapped = self.trapped(images, targets)
        natural, found = self.discriminator(torch.cat([images, trapped.detach()])).chunk(2)
        self.optimizer.zero_grad()
        torch.autograd.backward((_log_loss(natural, 1.0) + _log_loss(found, 0.0)) / 2)
        self.optimizer.step()
        with evaluating(model):
            effect = self.defense.criterion(self.run(model, trapped, targets, done)).mean()
        loss = effect + _log_loss(self.discriminator(trapped), 1.0)
        (gradient,) = torch.autograd.grad(loss, self.triggers)
        # The sign of 0 is 0, so triggers of classes that were not drawn do not change.
        stepped = self.triggers.detach() - self.settings.trigger_step * gradient.sign()
        self.triggers = stepped.clamp(0, 1)

    @torch.no_grad()
    def summary(self, model: nn.Module, data: ImageSet) -> dict[str, float]:
        """Return how often the model assigns an image with the trigger of another class to that class."""
        others = torch.randint(1, len(self.triggers), data.labels.shape, generator=self.generator)
        targets, device = (data.labels + others) % len(self.triggers), self.triggers.device
        caught = [
            model(self.trapped(images.to(device), aims.to(device))).argmax(1).cpu() == aims
            for images, aims in zip(blocks(data.images, 256), torch.split(targets, 256), strict=True)
        ]
        return {"trapdoor_success": float(torch.cat(caught).double().mean())}


@dataclass(frozen=True, kw_only=True)
class Trapdoor(Defense):
    """Learns a trigger for every class, and trains the model to predict that class for every image with the trigger.

    Each update follows the code of [LC24]. First, triggers of random classes are blended into the images (trapped
    images). The discriminator takes a step towards separating trapped from natural images. The triggers take a step
    towards their classes and towards images that the discriminator classifies as natural. The model takes a step on the
    weighted loss of both kinds of images. [LC24] also augments the images; for this, combine the trapdoor with a
    defence that augments.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import Recipe, train
    >>> digits = data.load("digits")
    >>> model = models.build("mlp", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> trained = train(Trapdoor(blend_ratio=0.1), model, digits.train, Recipe(steps=3, learning_rate=0.05), seed=0)
    >>> list(trained.diagnostics)  # how often an image with the trigger of a class is assigned to it
    ['trapdoor_success']

    Args:
        trapdoor_weight: weight beta of the loss of trapped images, in [0, 1); that of natural images is 1 - beta.
        blend_ratio: share alpha of the trigger in a trapped image, in (0, 1].
        trigger_step: change of every pixel of a trigger, in [0, 1], in one update; above 0.
    """

    name: ClassVar[str] = "trapdoor"
    strength_field: ClassVar[str | None] = "trapdoor_weight"
    strength_range: ClassVar[tuple[float, float] | None] = (0.01, 0.9)
    objective: ClassVar[type[Objective]] = TrapdoorObjective

    trapdoor_weight: float = 0.2  # this and the next two as in [LC24]
    blend_ratio: float = 0.02
    trigger_step: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= checks.real("trapdoor_weight", self.trapdoor_weight) < 1:
            raise ValueError(f"trapdoor_weight must be in [0, 1), got {self.trapdoor_weight}")
        if not 0 < checks.real("blend_ratio", self.blend_ratio) <= 1:
            raise ValueError(f"blend_ratio must be in (0, 1], got {self.blend_ratio}")
        if checks.real("trigger_step", self.trigger_step) <= 0:
            raise ValueError(f"trigger_step must be above 0, got {self.trigger_step}")


def _discriminator(channels: int) -> nn.Sequential:
    """Return a network from images (n, C, H, W) of any size to logits (n, 1), high for natural images."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, kernel_size=3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 1),
    )


def _log_loss(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
