"""The identity loss of LOMMA, ``iden_loss`` in its attack.py."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .common import CLASSES


def regularized_logit(
    model: nn.Sequential, students: list[nn.Module], near: Callable[[], Tensor]
) -> Callable[[Tensor], Tensor]:
    """The mean of -l_y over the target and the students, and how far the features of the target are from a point.

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
