"""A small style-based generator trained on public images, or the published generator with the user's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from dpmi.attacks.checks import at_least_one, require
from dpmi.attacks.target import Target
from dpmi.data import Images

from ..base import Gan, ImageShape, Trainer
from ..networks import doublings
from ..training import BatchPrior, BatchTrainer
from .discriminator import StyleDiscriminator
from .network import StyleGenerator
from .stylegan2_ada import load_generator

#: The gradient penalty is computed at every 4th step of the discriminator, in the paper at every 16th [StyleGAN2,
#: section 3.1]. The generator's learning rate is a third of the discriminator's [M. Heusel et al., "GANs trained by a
#: two time-scale update rule", NeurIPS 2017]. With a less frequent penalty and equal rates the generator collapses to
#: similar images.
LAZY = 4
GENERATOR_RATE = 1 / 3
BETAS = (0.0, 0.99)

#: The mapping network's learning rate is a tenth of the generator's. With a hundredth, as in the paper, it hardly
#: changes in a run of minutes.
MAPPING_RATE = 0.1

#: Decay per step of the mean of the generator's weights and of the mean style.
MEAN_WEIGHTS = 0.995
MEAN_STYLE = 0.995

#: Maximum width of a block, as a multiple of the width of the last block.
WIDEST = 4


@dataclass(frozen=True, kw_only=True)
class StylePrior(BatchPrior):
    """A style-based GAN [StyleGAN2-ADA: T. Karras et al., NeurIPS 2020], the prior of PPA, MIRROR and IF-GMI.

    The training uses the non-saturating logistic loss and a lazy R1 penalty. It omits style mixing, path length penalty
    and augmentation, which help only in runs a thousand times as long, and noise, which gives grainy images after a
    short run. The attack uses the mean of the generator's weights over the last steps.

    The defaults are for digits. For 750 grey faces of 32x32 pixels, ``r1`` 0.3, a learning rate of 0.006, a width of 16
    and 2500 steps give images that look like faces.

    Args:
        weights: file of a trained generator: an official StyleGAN2-ADA pickle, whose code is not executed, or its state
            dict as written by ``torch.save``. There is then no training and no discriminator, and of the other fields
            only ``crop`` has an effect.
        crop: side, in pixels, of the central crop of the images of ``weights``, which is then resized to the target's
            images; 800 of 1024 for FFHQ in PPA. None resizes the whole image.
        steps: steps of the generator and of the discriminator; after 2000 the digits of MNIST are readable.
        batch_size: images per step.
        learning_rate: learning rate of the discriminator's Adam, betas (0, 0.99); the generator's is a third of it.
        r1: weight gamma of the penalty gamma / 2 * ||grad D||^2 at public images.
        latent_size: length of z and of w.
        mapping_layers: number of layers from z to w.
        width: channels of the last block; they double with each halving of the side, up to 4 times this width.

    Raises:
        ValueError: a value is outside its range.

    >>> gan = StylePrior(width=4).build((1, 16, 16), num_classes=3)
    >>> gan.generator.latent_size, gan.generator(torch.randn(2, 64)).shape
    (64, torch.Size([2, 1, 16, 16]))
    >>> StylePrior(weights="ffhq.pkl", crop=800).given  # then nothing is trained
    True
    """

    name: ClassVar[str] = "style"

    weights: str | None = None
    crop: int | None = None
    steps: int = 3000
    batch_size: int = 16
    learning_rate: float = 0.003
    r1: float = 3.0
    latent_size: int = 64
    mapping_layers: int = 2
    width: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            "crop",
            self.crop,
            self.crop is None or (self.crop >= 1 and self.weights is not None),
            "at least 1, and set only together with weights",
        )
        require("r1", self.r1, 0 <= self.r1 < float("inf"), "at least 0 and finite")
        at_least_one(self, "latent_size", "mapping_layers", "width")

    @property
    def given(self) -> bool:
        """Whether its weights come from a file."""
        return self.weights is not None

    def build(self, image_shape: ImageShape, num_classes: int) -> Gan:
        """Return the untrained networks, or the generator of ``weights`` without a discriminator."""
        if self.weights is not None:
            return Gan(load_generator(self.weights, image_shape, crop=self.crop), nn.Identity())
        base, times = doublings(image_shape)
        channels = [self.width * min(2**number, WIDEST) for number in range(times + 1)]
        generator = StyleGenerator(
            image_shape,
            latent_size=self.latent_size,
            style_size=self.latent_size,
            mapping_layers=self.mapping_layers,
            channels=channels[::-1],
            base=base,
            rate=MAPPING_RATE,
        )
        return Gan(generator, StyleDiscriminator(image_shape, channels))

    def trainer(self, module: nn.Module, public: Images, target: Target | None) -> Trainer:
        """Return the training, which has no steps if the weights come from a file."""
        assert isinstance(module, Gan)
        return _Given() if self.given else _Training(module, public, self)


class _Given(Trainer):
    """The empty training of a generator whose weights come from a file."""

    steps = 0

    def step(self) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _Training(BatchTrainer):
    """Trains both networks; the generator of the module is the running mean of the trained generator."""

    def __init__(self, gan: Gan, public: Images, prior: StylePrior) -> None:
        assert isinstance(gan.generator, StyleGenerator)
        self._public = public
        self._r1 = prior.r1
        self._mean = gan.generator.requires_grad_(False)
        self._generator = deepcopy(gan.generator).requires_grad_(True)
        self._discriminator = gan.discriminator
        # Every LAZY-th step does the work of two, so Adam's constants are rescaled [StyleGAN2, appendix B].
        share = LAZY / (LAZY + 1)
        optimizers = {
            "discriminator": Adam(
                self._discriminator.parameters(),
                lr=prior.learning_rate * share,
                betas=(BETAS[0] ** share, BETAS[1] ** share),
            ),
            "generator": Adam(
                [p for name, p in self._generator.named_parameters() if not name.endswith("noise_strength")],
                lr=prior.learning_rate * GENERATOR_RATE,
                betas=BETAS,
            ),
        }
        super().__init__(len(public), prior, optimizers)

    def losses(self, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
        latents = torch.randn(len(rows), self._generator.latent_size).to(self._public.device)
        ws = self._generator.mapping(latents)
        fake = self._generator.synthesis(ws).rgb
        yield "discriminator", self._discriminator_loss(self._public[rows] * 2 - 1, fake.detach())
        self._discriminator.requires_grad_(False)
        yield "generator", F.softplus(-self._discriminator(fake)).mean()
        self._discriminator.requires_grad_(True)
        self._average(ws[:, 0].detach())

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        penalized = self._r1 > 0 and self._done % LAZY == 0
        of_real = self._discriminator(real.requires_grad_(penalized))
        loss = F.softplus(self._discriminator(fake)).mean() + F.softplus(-of_real).mean()
        if penalized:
            (gradient,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
            loss = loss + LAZY * self._r1 / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()
        return loss

    def _average(self, styles: Tensor) -> None:
        # The mean covers at most the last tenth of the steps, so that it does not depend on the first steps.
        least = 10 / (10 + self._done)
        own = self._generator.mapping
        own.w_avg.lerp_(styles.mean(dim=0), max(1 - MEAN_STYLE, least))
        self._mean.mapping.w_avg.copy_(own.w_avg)
        with torch.no_grad():
            for mean, value in zip(self._mean.parameters(), self._generator.parameters(), strict=True):
                mean.lerp_(value, max(1 - MEAN_WEIGHTS, least))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self._generator.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._generator.load_state_dict(state["generator"])
