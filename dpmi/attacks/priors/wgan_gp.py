"""The generator and critic of GMI: a Wasserstein GAN with gradient penalty.

Y. Zhang et al., "The Secret Revealer", CVPR 2020; I. Gulrajani et al., "Improved Training of Wasserstein GANs",
NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpmi.attacks.target import Target
from dpmi.data import Images

from .base import Gan, ImageShape
from .networks import ConvGenerator, Critic
from .training import GanPrior, GanTrainer, in_channels_last

#: Weight (lambda) of the gradient penalty.
PENALTY_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class WganGP(GanPrior):
    """A Wasserstein GAN with gradient penalty, trained on the public images.

    The critic minimises E D(G(z)) - E D(x) + 10 E (||grad D||_2 - 1)^2, the generator -E D(G(z)).

    The paper trains networks of width 1 for 100 passes over MNIST, 53,500 batches, and for 300 passes over faces. The
    defaults need minutes on two cores: narrower networks, a higher learning rate and more frequent generator steps
    give readable digits earlier.

    Args:
        steps: number of batches of the critic.
        batch_size: 64 in the paper.
        learning_rate: learning rate of Adam with betas (0.5, 0.999); 2e-4 in the paper.
        generator_every: 5 in the paper.
        width: 1 in the paper.
        latent_size: 100 in the paper.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "wgan-gp"
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)

    steps: int = 2200
    learning_rate: float = 5e-4
    generator_every: int = 2
    width: float = 0.25
    latent_size: int = 100

    def build(self, image_shape: ImageShape, num_classes: int) -> Gan:
        """Return the untrained generator and critic; ``num_classes`` has no effect."""
        generator = ConvGenerator(self.latent_size, image_shape, width=self.width)
        return in_channels_last(Gan(generator, Critic(image_shape, width=self.width)))

    def trainer(self, module: nn.Module, public: Images, target: Target | None) -> GanTrainer:
        """Return the training of both; it does not query the target."""
        assert isinstance(module, Gan)
        return _Training(module, public, self)


class _Training(GanTrainer):
    def discriminator_loss(self, rows: Tensor) -> Tensor:
        real = self.public[rows]
        fake = self.fakes(len(rows))
        # One pass for both, because the critic treats the images independently.
        on_real, on_fake = self.gan.discriminator(torch.cat([real, fake])).chunk(2)
        penalty = gradient_penalty(self.gan.discriminator, real, fake)
        loss: Tensor = on_fake.mean() - on_real.mean() + PENALTY_WEIGHT * penalty
        return loss

    def generator_loss(self, rows: Tensor) -> Tensor:
        loss: Tensor = -self.gan.discriminator(self.gan.generator(self.latents(len(rows)))).mean()
        return loss


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of (||grad D(x)||_2 - 1)^2 over points x drawn between real and fake images (n, C, H, W).

    The critic must treat the images independently. The gradient of the sum over the batch then contains the gradient of
    each image's own value.
    """
    share = torch.rand(len(real), 1, 1, 1, dtype=real.dtype).to(real.device)
    between = real.lerp(fake, share).requires_grad_()
    (gradients,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    lengths = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    penalty: Tensor = (lengths - 1).square().mean()
    return penalty
