"""What an attacker who knows a defence searches on in the place of the released model.

A defence that hides gradients looks like one that protects, until somebody searches on a model in which they are not
hidden [A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from .identity import IdentityLoss

#: Draws of the model's noise that one answer of :class:`Averaged` is the mean of.
DRAWS = 8

Penalty = Callable[[Tensor], Tensor]
"""Of images (n, C, H, W) in the graph, what is added to the identity loss of each, (n,)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Adaptation:
    """One way of searching a model whose defence is known; the model that was released stays what is attacked.

    Each part that is None is as an attack without it has it.

    Args:
        name: for tables, a few words.
        stand_in: from the released model, which it must not change, and public images (M, C, H, W) to the module
            that is searched: it maps images to logits as the released one does.
        loss: the identity loss that the search lowers.
        penalty: from the released model and public images to what is added to that loss.
        asks: how often the released model's weights are run for one answer about one image.
        learns: whether it asks the released model about each of the public images first.
    """

    name: str
    stand_in: Callable[[nn.Module, Tensor], nn.Module] | None = None
    loss: IdentityLoss | None = None
    penalty: Callable[[nn.Module, Tensor], Penalty] | None = None
    asks: int = 1
    learns: bool = False


class Averaged(nn.Module):
    """The log of the mean probabilities over several draws of a model's own noise, in the place of its logits.

    Its gradient is that of the expectation [A. Athalye, L. Engstrom, A. Ilyas, K. Kwok, "Synthesizing Robust
    Adversarial Examples", ICML 2018].

    Args:
        model: draws noise whenever it is asked.
        draws: at least 1.
    """

    def __init__(self, model: nn.Module, draws: int = DRAWS) -> None:
        super().__init__()
        self.model = model
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        """From (n, C, H, W) to (n, K)."""
        logits: Tensor = self.model(images.repeat(self.draws, 1, 1, 1))
        of_draws = logits.log_softmax(dim=1).view(self.draws, len(images), -1)
        mean: Tensor = of_draws.logsumexp(dim=0) - math.log(self.draws)
        return mean


def averaged() -> Adaptation:
    """The expectation over the noise of a model that draws some."""
    return Adaptation(name="averaged noise", stand_in=lambda model, _: Averaged(model), asks=DRAWS)


def matched(name: str, loss: IdentityLoss) -> Adaptation:
    """The same search with an identity loss that fits how the model was trained."""
    return Adaptation(name=name, loss=loss)
