"""How much two sets of values of the same records depend on each other, by kernel matrices.

A kernel matrix (m, m) says how alike each two of m records are in one respect: their pixels, what a layer makes of
them, their labels. Every measure is 0 where one of both says nothing, as labels do that are all the same, and where
there is one record. K~ = H K H is the centred kernel matrix, H = I - 11'/m:

============  ====================================  ========================================================
measure       value                                 source
============  ====================================  ========================================================
``nocco``     tr(G_K G_L), G_K = K~ (K~ + e m I)^-1  what the code of [BiDO] computes as HSIC; e = 1e-5
``hsic``      tr(K~ L~) / (m - 1)^2                  [BiDO] equation 5
``cka``       tr(K~ L~) / (||K~||_F ||L~||_F)        HSIC, normalized; in [0, 1]
``coco_fro``  sqrt(||K~ L~||_F) / m                  what the code of [BiDO] computes as COCO
``coco_spec`` sqrt(||K~ L~||_2) / m                  [BiDO] equation 2
============  ====================================  ========================================================

``nocco`` counts: it is at most m - 1, at most K - 1 between anything and labels of K classes, and near its end where
every record can be told from every other. Then shuffled pairs score nearly as high as real ones, and a smaller value
says little.

[BiDO]: X. Peng et al., "Bilateral Dependency Optimization: Defending Against Model-inversion Attacks", KDD 2022.

>>> labels = torch.tensor([0, 0, 1, 1, 2, 2])
>>> of_labels = label_kernel(labels)
>>> round(float(MEASURES["nocco"](of_labels, of_labels)), 3)
2.0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: Of the Gaussian kernel, for values divided by the root of their number ([BiDO] appendix).
SIGMA = 5.0

#: Added to the eigenvalues of a centred kernel matrix, per record; of the code of [BiDO].
NOCCO_EPSILON = 1e-5


def gaussian_kernel(values: Tensor, sigma: float = SIGMA) -> Tensor:
    """exp(-||a - b||^2 / (2 sigma^2 d)) for each two records.

    Args:
        values: (m, ...), d numbers for each record.
        sigma: above 0.

    Returns:
        float64 (m, m). With the sigma of the papers its entries lie within 1 % of each other: in float32, centring
        would leave three digits of them.
    """
    flat = values.flatten(1)
    # Distances do not depend on the mean, and rounding does.
    centered = flat - flat.mean(dim=0)
    products = (centered @ centered.T).double()
    squares = products.diagonal()
    distances = squares[:, None] + squares - 2 * products
    return torch.exp(distances / (-2 * sigma**2 * flat.shape[1]))


def label_kernel(labels: Tensor) -> Tensor:
    """The linear kernel of one-hot labels: 1 where two records are of the same class.

    Args:
        labels: (m,).

    Returns:
        float64 (m, m).
    """
    return (labels[:, None] == labels).double()


class Measure(NamedTuple):
    """A measure of dependence, in two steps, so that what is compared often is prepared once.

    Args:
        prepare: a kernel matrix (..., m, m), or several, to what is compared.
        compare: two of these to their dependence (...); broadcasts.
    """

    prepare: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The dependence (...) between two kernel matrices (..., m, m)."""
        return self.compare(self.prepare(first), self.prepare(second))


def _center(kernel: Tensor) -> Tensor:
    rows = kernel.double()
    rows = rows - rows.mean(dim=-1, keepdim=True)
    return rows - rows.mean(dim=-2, keepdim=True)


def _smoothed_projection(kernel: Tensor) -> Tensor:
    """G; symmetric, where the published form R = K H (K H + e m I)^-1 is not, with tr(R_K R_L) = tr(G_K G_L)."""
    centered = _center(kernel)
    records = kernel.shape[-1]
    shift = NOCCO_EPSILON * records * torch.eye(records, dtype=centered.dtype, device=centered.device)
    # Values that are not finite become NaN here, and training says of which loss; the checking one would raise.
    factor, _ = torch.linalg.cholesky_ex(centered + shift)
    return torch.cholesky_solve(centered, factor)


def _covariance(kernel: Tensor) -> Tensor:
    return _center(kernel) / max(kernel.shape[-1] - 1, 1)


def _direction(kernel: Tensor) -> Tensor:
    centered = _center(kernel)
    length = torch.linalg.matrix_norm(centered, keepdim=True)
    return centered / torch.where(length > 0, length, 1)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=(-2, -1))


def _root_of_norm(order: str | int) -> Callable[[Tensor, Tensor], Tensor]:
    def compare(first: Tensor, second: Tensor) -> Tensor:
        norm = torch.linalg.matrix_norm(first @ second, ord=order)
        # The root of 0 has an infinite slope, which would make a NaN of every gradient behind it.
        root: Tensor = torch.where(norm > 0, norm, 1).sqrt() * (norm > 0)
        return root / first.shape[-1]

    return compare


MEASURES: dict[str, Measure] = {
    "nocco": Measure(_smoothed_projection, _inner),
    "hsic": Measure(_covariance, _inner),
    "cka": Measure(_direction, _inner),
    "coco_fro": Measure(_center, _root_of_norm("fro")),
    "coco_spec": Measure(_center, _root_of_norm(2)),
}
