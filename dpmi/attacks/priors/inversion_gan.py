"""The inversion-specific GAN of KED-MI, whose discriminator also learns the target's soft labels of public images.

S. Chen et al., "Knowledge-Enriched Distributional Model Inversion Attacks", ICCV 2021, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks.target import Target
from dpmi.data import Images

from .base import Gan, ImageShape
from .networks import ClassDiscriminator, ConvGenerator
from .training import GanPrior, GanTrainer, in_channels_last, soft_labels

#: Weight of the real-or-fake loss, relative to the loss on the target's soft labels.
REALISM_WEIGHT = 0.5

#: Weight of the entropy of the discriminator's softmax on generated images.
ENTROPY_WEIGHT = 1e-4


@dataclass(frozen=True, kw_only=True)
class InversionGan(GanPrior):
    """A GAN whose discriminator has one logit for each class of the target.

    With L = logsumexp of the logits, the discriminator minimises the batch mean of
    CE(softmax T(x), D(x)) + (softplus(L(x)) - L(x) + softplus(L(G(z)))) / 2. The generator minimises the mean
    ``|E f(G(z)) - E f(x)|`` of the discriminator's features f, plus 1e-4 times the sum of the entropies of
    softmax D(G(z)). All public images x of a step are one batch; the published code draws one for each of the three
    terms. The target is queried once for every public image.

    The paper trains networks of width 1 for 100 passes over MNIST, 53,500 batches. The defaults need minutes on two
    cores, like those of :class:`.wgan_gp.WganGP`. A narrower discriminator has too few features to match, and the
    generated digits are fragmented.

    Args:
        steps: number of batches of the discriminator.
        batch_size: 64 in the paper.
        learning_rate: learning rate of Adam with betas (0.5, 0.999); 2e-4 in the paper.
        generator_every: 5 in the paper.
        width: 1 in the paper.
        latent_size: 100 in the paper.

    Raises:
        ValueError: a value is outside its range.

    >>> from dpmi import models
    >>> from dpmi.attacks.priors import fetch
    >>> model = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0).eval().requires_grad_(False)
    >>> target = Target(model)
    >>> gan = fetch(
    ...     InversionGan(steps=1, width=0.1), public=torch.rand(20, 1, 16, 16), target=target,
    ...     image_shape=(1, 16, 16), num_classes=3, folder=None, progress=lambda done, total: None)
    >>> target.queries, gan.discriminator(torch.rand(2, 1, 16, 16)).shape  # a logit for each class
    (20, torch.Size([2, 3]))
    """

    name: ClassVar[str] = "inversion-gan"
    distils: ClassVar[bool] = True
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)

    steps: int = 1200
    learning_rate: float = 5e-4
    generator_every: int = 1
    width: float = 0.5
    latent_size: int = 100

    def build(self, image_shape: ImageShape, num_classes: int) -> Gan:
        """Return the untrained generator and discriminator."""
        generator = ConvGenerator(self.latent_size, image_shape, width=self.width)
        discriminator = ClassDiscriminator(image_shape, num_classes, width=self.width)
        return in_channels_last(Gan(generator, discriminator))

    def trainer(self, module: nn.Module, public: Images, target: Target | None) -> GanTrainer:
        """Return the training of both."""
        assert isinstance(module, Gan)
        assert target is not None
        return _Training(module, public, self, soft_labels(target, public))


class _Training(GanTrainer):
    def __init__(self, gan: Gan, public: Images, prior: InversionGan, labels: Tensor) -> None:
        super().__init__(gan, public, prior)
        assert isinstance(gan.discriminator, ClassDiscriminator)
        self._discriminator = gan.discriminator
        self._labels = labels

    def discriminator_loss(self, rows: Tensor) -> Tensor:
        on_real, on_fake = self._discriminator(self.public[rows]), self._discriminator(self.fakes(len(rows)))
        return discriminator_loss(on_real, self._labels[rows], on_fake)

    def generator_loss(self, rows: Tensor) -> Tensor:
        fake = self.gan.generator(self.latents(len(rows)))
        features, logits = self._discriminator.features_and_logits(fake)
        with torch.no_grad():
            real_features, _ = self._discriminator.features_and_logits(self.public[rows])
        return generator_loss(real_features, features, logits)


def discriminator_loss(on_real: Tensor, soft: Tensor, on_fake: Tensor) -> Tensor:
    """Return the discriminator's loss.

    Args:
        on_real: its logits (n, K) for public images.
        soft: the target's softmax (n, K) for the same images.
        on_fake: its logits (n, K) for generated images.
    """
    real, fake = on_real.logsumexp(dim=1), on_fake.logsumexp(dim=1)
    # softplus(L) - L = softplus(-L), without the difference of two large numbers.
    realism = F.softplus(-real).mean() + F.softplus(fake).mean()
    return F.cross_entropy(on_real, soft) + REALISM_WEIGHT * realism


def generator_loss(real_features: Tensor, fake_features: Tensor, on_fake: Tensor) -> Tensor:
    """Return the generator's loss.

    Args:
        real_features: the discriminator's features (n, d) of public images.
        fake_features: the same for generated images.
        on_fake: the discriminator's logits (n, K) for generated images.
    """
    matching = (fake_features.mean(dim=0) - real_features.mean(dim=0)).abs().mean()
    entropy: Tensor = torch.special.entr(on_fake.softmax(dim=1)).sum()
    return matching + ENTROPY_WEIGHT * entropy
