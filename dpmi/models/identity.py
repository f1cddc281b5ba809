"""Identity losses: functions of the logits, one value per image, small if the classifier assigns it to its class.

>>> logits, labels = torch.tensor([[1.0, 4.0, 1.0]]), torch.tensor([1])
>>> def small_for_the_class(loss: IdentityLoss) -> bool:
...     return bool(loss(logits, labels) < loss(logits, 1 - labels))
>>> {name: small_for_the_class(loss) for name, loss in IDENTITY_LOSSES.items()}
{'doubt': True, 'cross-entropy': True, 'logit': True, 'centred-logit': True, 'margin': True, 'poincare': True}
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

IdentityLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (n, K) and labels int64 (n,) to a loss (n,) that is small for images assigned to their class."""

#: Distance of the one-hot target of :func:`poincare` from the boundary of the unit ball.
_INSIDE = 1e-4


def doubt(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - p_y [M. Fredrikson, S. Jha, T. Ristenpart, CCS 2015].

    It is flat where the classifier has high confidence in another class.
    """
    return 1 - _of(logits.softmax(dim=1), labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -ln p_y; its gradient vanishes at high confidence, however far the image is from the class."""
    return F.cross_entropy(logits, labels, reduction="none")


def logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -l_y, whose gradient does not vanish [LOMMA: N.-B. Nguyen et al., CVPR 2023, eq. 4]."""
    return -_of(logits, labels)


def centred_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of all logits minus l_y, which a constant added to all logits does not change.

    >>> centred_logit(torch.tensor([[1.0, 4.0, 1.0]]), torch.tensor([1]))
    tensor([-2.])
    """
    return logits.mean(dim=1) - _of(logits, labels)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -l_y + max over j != y of l_j, the max-margin loss [PLG-MI: X. Yuan et al., AAAI 2023, eq. 5].

    >>> margin(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([1]))
    tensor([-2.])
    """
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return others - _of(logits, labels)


def poincare(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Poincare distance of the l1-normalized logits to the class [PPA: L. Struppek et al., ICML 2022].

    It is arccosh(1 + 2 ||u - v||^2 / ((1 - ||u||^2) (1 - ||v||^2))) with u = l / ||l||_1 and v the one-hot label, moved
    1e-4 inside the unit ball.
    """
    u = F.normalize(logits, p=1, dim=1)
    v = (F.one_hot(labels, logits.shape[1]).to(u) - _INSIDE).clamp(0, 1)
    apart = (u - v).square().sum(dim=1)
    # If a single logit is not zero, u is on the boundary, where the distance is infinite.
    inside = (1 - u.square().sum(dim=1)).clamp_min(torch.finfo(u.dtype).eps)
    return torch.acosh(1 + 2 * apart / (inside * (1 - v.square().sum(dim=1))))


def _of(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


IDENTITY_LOSSES = MappingProxyType(
    {
        "doubt": doubt,
        "cross-entropy": cross_entropy,
        "logit": logit,
        "centred-logit": centred_logit,
        "margin": margin,
        "poincare": poincare,
    }
)
"""Identity losses by name."""
