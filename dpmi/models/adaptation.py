"""Adaptive attacks: changes of an attack's search by an attacker who knows the defence.

A defence that masks gradients seems to protect until an attacker searches on a model without the mask [A. Athalye,
N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from .identity import IdentityLoss

#: Number of draws of the model's noise in the mean of :class:`Averaged`.
DRAWS = 8

Penalty = Callable[[Tensor], Tensor]
"""Maps images (n, C, H, W) with gradients to a term (n,) that is added to their identity loss."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Adaptation:
    """An adaptive attack: it changes the model or the loss of the search; the target remains the released model.

    A part that is None leaves the attack unchanged.

    Args:
        name: a few words for tables.
        stand_in: maps the released model, which it must not change, and public images (M, C, H, W) to the module of the
            search, which maps images to logits like the released model.
        loss: the identity loss of the search.
        penalty: maps the released model and public images to a term that is added to this loss.
        asks: number of runs of the released model's weights for the logits of one image.
        learns: whether it first queries the released model once for each public image.

    >>> import torch
    >>> from dpmi import attacks, models
    >>> target = models.build("softmax", image_shape=(1, 8, 8), num_classes=3, seed=0)
    >>> dark = Adaptation(
    ...     name="dark images", penalty=lambda model, public: lambda images: images.flatten(1).mean(1))
    >>> attack, seed = attacks.MIFace(iterations=5), torch.Generator().manual_seed(0)
    >>> recons = attack.run(
    ...     target, torch.arange(3), image_shape=(1, 8, 8), generator=seed, adaptation=dark)
    >>> recons.images.shape  # their scores are those of the target
    torch.Size([3, 1, 8, 8])
    """

    name: str
    stand_in: Callable[[nn.Module, Tensor], nn.Module] | None = None
    loss: IdentityLoss | None = None
    penalty: Callable[[nn.Module, Tensor], Penalty] | None = None
    asks: int = 1
    learns: bool = False


class Averaged(nn.Module):
    """Replaces a model's logits by the log of the mean probabilities over several draws of the model's noise.

    Its gradient is that of the expectation over the noise [A. Athalye, L. Engstrom, A. Ilyas, K. Kwok, "Synthesizing
    Robust Adversarial Examples", ICML 2018].

    Args:
        model: draws noise in every forward pass.
        draws: number of draws, at least 1.

    >>> import torch
    >>> noisy = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    >>> logits = Averaged(noisy, draws=4)(torch.rand(2, 1, 8, 8))
    >>> logits.exp().sum(1).round(decimals=3).tolist()  # the logarithms of mean probabilities
    [1.0, 1.0]
    """

    def __init__(self, model: nn.Module, draws: int = DRAWS) -> None:
        super().__init__()
        self.model = model
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, K) for images (n, C, H, W)."""
        logits: Tensor = self.model(images.repeat(self.draws, 1, 1, 1))
        of_draws = logits.log_softmax(dim=1).view(self.draws, len(images), -1)
        mean: Tensor = of_draws.logsumexp(dim=0) - math.log(self.draws)
        return mean


def averaged() -> Adaptation:
    """Return the adaptive attack on the expectation over a model's noise.

    >>> attack_on_noise = averaged()
    >>> attack_on_noise.name, attack_on_noise.asks
    ('averaged noise', 8)
    """
    return Adaptation(name="averaged noise", stand_in=lambda model, _: Averaged(model), asks=DRAWS)


def matched(name: str, loss: IdentityLoss) -> Adaptation:
    """Return the adaptive attack with an identity loss that matches the training of the model.

    >>> from dpmi import attacks
    >>> from dpmi.models import IDENTITY_LOSSES
    >>> adaptation = matched("logit loss", IDENTITY_LOSSES["logit"])
    >>> attacks.MIFace().takes(adaptation), attacks.LabelMean().takes(adaptation)  # the latter has no loss
    (True, False)
    """
    return Adaptation(name=name, loss=loss)
