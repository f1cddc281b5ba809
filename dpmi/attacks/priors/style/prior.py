"""A small style-based generator, trained on public images, or the published one with weights of the user's."""

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

from ..base import Gan, ImageShape, Trainer
from ..networks import doublings
from ..training import BatchPrior, BatchTrainer
from .discriminator import StyleDiscriminator
from .network import StyleGenerator
from .stylegan2_ada import load_generator

#: The gradient penalty is taken at every 4th step of the discriminator, a 16th in the paper [StyleGAN2, section 3.1],
#: and the generator learns at a third of its rate [M. Heusel et al., "GANs trained by a two time-scale update rule",
#: NeurIPS 2017]. With a rare penalty and equal rates all images soon look alike.
LAZY = 4
GENERATOR_RATE = 1 / 3
BETAS = (0.0, 0.99)

#: The mapping network learns at a tenth of the generator's rate. At a hundredth, as in the paper, a run of minutes
#: leaves it as it was drawn.
MAPPING_RATE = 0.1

#: Decay, by step, of the mean of the generator's weights, and of the mean style.
MEAN_WEIGHTS = 0.995
MEAN_STYLE = 0.995

#: Blocks grow to so many times the width of the last.
WIDEST = 4


@dataclass(frozen=True, kw_only=True)
class StylePrior(BatchPrior):
    """A style-based GAN [StyleGAN2-ADA: T. Karras et al., NeurIPS 2020], the prior of PPA, MIRROR and IF-GMI.

    Trained with the non-saturating logistic loss and a lazy R1 penalty; without style mixing, path length penalty
    and augmentation, which pay off in runs a thousand times as long, and without noise, which a short run turns into
    grain. The attack gets the mean of the generator's weights over the last steps.

    The defaults are for digits. What 2500 steps on 750 grey faces, 32x32, made with ``r1`` 0.3, a learning rate of
    0.006 and a width of 16 looks like faces.

    Args:
        weights: file of a trained generator instead: an official StyleGAN2-ADA pickle, of which nothing is run, or
            what ``torch.save`` wrote of its state dict. Nothing is trained then, there is no discriminator, and the
            other fields but ``crop`` mean nothing.
        crop: of ``weights``: the middle of so many pixels a side is cut out of what they make, and resized to the
            target's images; 800 of 1024 for FFHQ in PPA. None resizes the whole.
        steps: of generator and discriminator, each; after 2000 the digits of MNIST can be read.
        batch_size: images per step.
        learning_rate: of the discriminator's Adam, betas (0, 0.99); the generator's is a third of it.
        r1: weight gamma of the penalty gamma / 2 * ||grad D||^2 at public images.
        latent_size: length of z, and of w.
        mapping_layers: of z -> w.
        width: channels of the last block; doubled with each halving of the side, at most to 4 times that.

    Raises:
        ValueError: a value outside its range.
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
            "at least 1, and given with weights only",
        )
        require("r1", self.r1, 0 <= self.r1 < float("inf"), "at least 0 and finite")
        at_least_one(self, "latent_size", "mapping_layers", "width")

    @property
    def given(self) -> bool:
        """Where its weights are in a file."""
        return self.weights is not None

    def build(self, image_shape: ImageShape, num_classes: int) -> Gan:
        """Return the untrained networks, or the given generator and no discriminator."""
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

    def trainer(self, module: nn.Module, public: Tensor, target: Target | None) -> Trainer:
        """Return the training; of a generator that was given it has no steps."""
        assert isinstance(module, Gan)
        return _Given() if self.given else _Training(module, public, self)


class _Given(Trainer):
    """Nothing to train."""

    steps = 0

    def step(self) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _Training(BatchTrainer):
    """Steps both networks; the generator of the module is the running mean of the one that is stepped."""

    def __init__(self, gan: Gan, public: Tensor, prior: StylePrior) -> None:
        assert isinstance(gan.generator, StyleGenerator)
        self._public = public
        self._r1 = prior.r1
        self._mean = gan.generator.requires_grad_(False)
        self._generator = deepcopy(gan.generator).requires_grad_(True)
        self._discriminator = gan.discriminator
        # A step with the penalty counts for two, and Adam's constants are those of a step [StyleGAN2, appendix B].
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
        """The discriminator's, then the generator's on the same images."""
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
        # The mean is over the last tenth of the steps at most, or it would remember the first ones for too long.
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
