"""The identity losses of GMI and KED-MI, and of LOMMA, one value for each class."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .common import CLASSES


def cross_entropy(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """-ln p_y, of which the published code takes the mean."""
    return lambda images: F.cross_entropy(model(images), CLASSES, reduction="none")


def regularized_logit(
    model: nn.Sequential, students: list[nn.Module], near: Callable[[], Tensor]
) -> Callable[[Tensor], Tensor]:
    """iden_loss of LOMMA: the mean of -l_y over all networks, and how far the target's features are from a point.

    Args:
        model: the target, whose last layer is its head.
        students: the networks distilled from it.
        near: returns the point, once a step.

    Returns:
        Maps one image of each class to the losses of the classes.
    """

    def identity(images: Tensor) -> Tensor:
        losses = [-network(images)[range(len(CLASSES)), CLASSES] for network in (model, *students)]
        away = (model[:-1](images) - near()) ** 2
        mean: Tensor = sum(losses) / len(losses)  # type: ignore[assignment]
        return mean + 1.0 * away.mean(dim=1)

    return identity
