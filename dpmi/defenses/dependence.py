"""Kernel measures of the dependence between two sets of values of the same records.

A kernel matrix (m, m) contains the similarity of each pair of m records in one respect: their pixels, the outputs of a
layer or their labels. Every measure is 0 if one of the two is constant, for example if all labels are equal, or if
there is a single record. K~ = H K H is the centred kernel matrix, H = I - 11'/m:

============  ====================================  ========================================================
measure       value                                 source
============  ====================================  ========================================================
``nocco``     tr(G_K G_L), G_K = K~ (K~ + e m I)^-1  HSIC in the code of [BiDO]; e = 1e-5
``hsic``      tr(K~ L~) / (m - 1)^2                  [BiDO] equation 5
``cka``       tr(K~ L~) / (||K~||_F ||L~||_F)        HSIC, normalized; in [0, 1]
``coco_fro``  sqrt(||K~ L~||_F) / m                  COCO in the code of [BiDO]
``coco_spec`` sqrt(||K~ L~||_2) / m                  [BiDO] equation 2
============  ====================================  ========================================================

``nocco`` is at most m - 1, and at most K - 1 if one of the two is the labels of K classes. It is close to this maximum
if every record can be distinguished from every other. Shuffled pairs then score nearly as high as real pairs, and a
smaller value means little.

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

#: Width of the Gaussian kernel, for values divided by the root of their number ([BiDO] appendix).
SIGMA = 5.0

#: Added to the eigenvalues of a centred kernel matrix, per record; from the code of [BiDO].
NOCCO_EPSILON = 1e-5


def gaussian_kernel(values: Tensor, sigma: float = SIGMA) -> Tensor:
    """Return exp(-||a - b||^2 / (2 sigma^2 d)) for each pair of records.

    Args:
        values: (m, ...), d numbers for each record.
        sigma: width of the kernel, above 0.

    Returns:
        float64 (m, m). With the sigma of the papers, its entries differ by less than 1 %; in float32, only three digits
        would remain after centring.
    """
    flat = values.flatten(1)
    # The mean does not change the distances, but removing it reduces the rounding error.
    centered = flat - flat.mean(dim=0)
    products = (centered @ centered.T).double()
    squares = products.diagonal()
    distances = squares[:, None] + squares - 2 * products
    return torch.exp(distances / (-2 * sigma**2 * flat.shape[1]))


def label_kernel(labels: Tensor) -> Tensor:
    """Return the linear kernel of one-hot labels: 1 for two records of the same class, else 0.

    Args:
        labels: (m,).

    Returns:
        float64 (m, m).
    """
    return (labels[:, None] == labels).double()


class Measure(NamedTuple):
    """A measure of dependence in two steps, so that a matrix of several comparisons is prepared once.

    Args:
        prepare: maps kernel matrices (..., m, m) to the inputs of ``compare``.
        compare: maps two such inputs to their dependence (...); broadcasts.
    """

    prepare: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the dependence (...) between two kernel matrices (..., m, m)."""
        return self.compare(self.prepare(first), self.prepare(second))


def _center(kernel: Tensor) -> Tensor:
    rows = kernel.double()
    rows = rows - rows.mean(dim=-1, keepdim=True)
    return rows - rows.mean(dim=-2, keepdim=True)


def _smoothed_projection(kernel: Tensor) -> Tensor:
    """Return G, the symmetric equivalent of the published R = K H (K H + e m I)^-1: tr(R_K R_L) = tr(G_K G_L)."""
    centered = _center(kernel)
    records = kernel.shape[-1]
    shift = NOCCO_EPSILON * records * torch.eye(records, dtype=centered.dtype, device=centered.device)
    # cholesky_ex returns NaN for values that are not finite, and the training loop reports the loss; cholesky raises.
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
        # The root has an infinite slope at 0, which would turn every upstream gradient into NaN.
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
