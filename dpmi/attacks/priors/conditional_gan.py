"""The conditional GAN of PLG-MI, conditional on the target's classes.

X. Yuan et al., "Pseudo Label-Guided Model Inversion Attack via Conditional Generative Adversarial Network", AAAI 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks.checks import at_least_one, require
from dpmi.attacks.stages.views import NUMBERS, Augmentation, augmentation
from dpmi.attacks.target import Target
from dpmi.data.lazy import Images, taken
from dpmi.models.identity import margin
from dpmi.precision import forward_in, widened

from .base import Gan, ImageShape
from .residual import ConditionalGenerator, ProjectionDiscriminator
from .training import GanPrior, GanTrainer, in_channels_last, soft_labels

#: Share of the images whose brightness and contrast change in the queries of the training.
JITTERED = 0.5


@dataclass(frozen=True, kw_only=True)
class ConditionalGan(GanPrior):
    """A GAN trained, for each class, on the public images with the target's highest confidence.

    The ``top_n`` public images with the largest p_y get the pseudo-label y. The discriminator minimises the hinge loss
    on images with labels. The generator minimises -E D(G(z, y), y) + alpha E (max_{j != y} l_j - l_y); the second term
    uses the target's logits l for augmented images. The target is queried once for every public image, and for the
    generated images of each generator step.

    The published code takes the generator's step before those of the discriminator, not after them, and adds uniform
    noise of 1/256 to the public images. It shows the discriminator public and generated images one after the other,
    which updates its spectral norms twice a step.

    The paper trains networks of width 1 for 30,000 steps of the generator, 150,000 batches. The defaults need minutes
    on two cores, like those of :class:`.wgan_gp.WganGP`. The paper's 30 images per class are its 30,000 public images
    divided by its 1,000 classes. The same limit M / K applies here, so that a small set of public images is not used in
    full for every class.

    Args:
        steps: number of batches of the discriminator.
        batch_size: 64 in the paper.
        learning_rate: learning rate of Adam with betas (0, 0.9); 2e-4 in the paper.
        generator_every: 5 in the paper.
        width: 1 in the paper.
        latent_size: 128 in the paper.
        top_n: public images per class, limited to M / K.
        alpha: weight of the max-margin term; 0.2 in the paper.
        augmentation: augmentation of the images in the target's queries, drawn for each image: ``faces`` as in the
            paper, ``digits`` (without a mirror) or ``none``.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "conditional-gan"
    distils: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.0, 0.9)

    steps: int = 1200
    learning_rate: float = 5e-4
    generator_every: int = 2
    width: float = 0.125
    latent_size: int = 128
    top_n: int = 1000
    alpha: float = 0.2
    augmentation: Augmentation = "digits"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "top_n")
        augmentation(self.augmentation)
        require("alpha", self.alpha, 0 <= self.alpha < float("inf"), "at least 0 and finite")

    def build(self, image_shape: ImageShape, num_classes: int) -> Gan:
        """Return the untrained generator and discriminator."""
        generator = ConditionalGenerator(self.latent_size, image_shape, num_classes, width=self.width)
        discriminator = ProjectionDiscriminator(image_shape, num_classes, width=self.width)
        return in_channels_last(Gan(generator, discriminator))

    def trainer(self, module: nn.Module, public: Images, target: Target | None) -> GanTrainer:
        """Return the training of both."""
        assert isinstance(module, Gan)
        assert target is not None
        soft = soft_labels(target, public)
        rows, labels = top_rows(soft, min(self.top_n, max(1, len(public) // soft.shape[1])))
        return _Training(module, taken(public, rows), self, labels, target)


class _Training(GanTrainer):
    def __init__(
        self, gan: Gan, public: Images, prior: ConditionalGan, labels: Tensor, target: Target
    ) -> None:
        super().__init__(gan, public, prior)
        self._labels = labels
        self._target = target
        self._classes = int(labels.max()) + 1
        self._alpha = prior.alpha
        self._augment = augmentation(prior.augmentation, jitter=JITTERED)

    def discriminator_loss(self, rows: Tensor) -> Tensor:
        labels = torch.cat([self._labels[rows], self._draw_labels(len(rows))])
        with torch.no_grad():
            fake = self.gan.generator(self.latents(len(rows)), labels[len(rows) :])
        # One pass for both, because the discriminator treats the images independently.
        on_real, on_fake = self.gan.discriminator(torch.cat([self.public[rows], fake]), labels).chunk(2)
        return hinge(on_real, on_fake)

    def generator_loss(self, rows: Tensor) -> Tensor:
        labels = self._draw_labels(self._batch_size)
        fake = self.gan.generator(self.latents(len(labels)), labels)
        seen = self._augment(fake, torch.rand(len(fake), NUMBERS))
        # The target answers as it does when it is attacked.
        with forward_in("float32", seen.device):
            misses = margin(self._target.logits(widened(seen)), labels).mean()
        loss: Tensor = self._alpha * misses - self.gan.discriminator(fake, labels).mean()
        return loss

    def _draw_labels(self, count: int) -> Tensor:
        return torch.randint(self._classes, (count,)).to(self.public.device)


def top_rows(soft: Tensor, top_n: int) -> tuple[Tensor, Tensor]:
    """Return the rows of the ``top_n`` largest p_y of each class y, and that class as their pseudo-label.

    Args:
        soft: the target's softmax (M, K).
        top_n: at most M.

    Returns:
        Two int64 (K * top_n,); a row may occur for several classes.

    >>> top_rows(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), 2)
    (tensor([0, 1, 2, 1]), tensor([0, 0, 1, 1]))
    """
    rows = soft.topk(top_n, dim=0).indices.T
    labels = torch.arange(soft.shape[1], device=soft.device)[:, None].expand_as(rows)
    return rows.flatten(), labels.flatten()


def hinge(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Return E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))) of values (n,)."""
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
