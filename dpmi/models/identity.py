"""What makes a classifier take an image for a class: identity losses of its logits, one value per image."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

IdentityLoss = Callable[[Tensor, Tensor], Tensor]
"""Of logits (n, K) and labels int64 (n,), a loss (n,) that is small where the image is taken for its class."""

#: How far inside the unit ball the one-hot target of :func:`poincare` lies.
_INSIDE = 1e-4


def doubt(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - p_y [M. Fredrikson, S. Jha, T. Ristenpart, CCS 2015]; flat where the classifier is sure of another class."""
    return 1 - _of(logits.softmax(dim=1), labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-ln p_y. Its gradient vanishes once the target is sure, however far the image is from the class."""
    return F.cross_entropy(logits, labels, reduction="none")


def logit(logits: Tensor, labels: Tensor) -> Tensor:
    """-l_y, which goes on growing [LOMMA: N.-B. Nguyen et al., CVPR 2023, eq. 4]."""
    return -_of(logits, labels)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """-l_y + max over j != y of l_j, the max-margin loss [PLG-MI: X. Yuan et al., AAAI 2023, eq. 5].

    >>> margin(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([1]))
    tensor([-2.])
    """
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return others - _of(logits, labels)


def poincare(logits: Tensor, labels: Tensor) -> Tensor:
    """Distance in the Poincare ball of the l1-normalized logits from the class [PPA: L. Struppek et al., ICML 2022].

    arccosh(1 + 2 ||u - v||^2 / ((1 - ||u||^2) (1 - ||v||^2))) with u = l / ||l||_1 and v the one-hot label, moved
    1e-4 inside the ball.
    """
    u = F.normalize(logits, p=1, dim=1)
    v = (F.one_hot(labels, logits.shape[1]).to(u) - _INSIDE).clamp(0, 1)
    apart = (u - v).square().sum(dim=1)
    # A single logit that is not zero puts u on the rim, where the distance is infinite.
    inside = (1 - u.square().sum(dim=1)).clamp_min(torch.finfo(u.dtype).eps)
    return torch.acosh(1 + 2 * apart / (inside * (1 - v.square().sum(dim=1))))


def _of(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


IDENTITY_LOSSES = MappingProxyType(
    {"doubt": doubt, "cross-entropy": cross_entropy, "logit": logit, "margin": margin, "poincare": poincare}
)
"""Identity losses by name."""
