"""Frechet inception distance between reconstructions and private images [Heusel et al., NeurIPS 2017, eq. 6].

It is the squared 2-Wasserstein distance of the two Gaussians with the features' means and covariances S1 and S2. With
fewer images than features the covariances are singular, and a matrix square root is slow and inexact. This module
avoids it: tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T, with X1 and X2 the centred features, divided
by sqrt((n1 - 1)(n2 - 1)), because S1 S2 and X1 X2^T X2 X1^T have the same non-zero eigenvalues. Torchmetrics takes
square roots of the eigenvalues of S1 S2, which is hundreds of times slower, and drops eigenvalues that rounding makes
negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Number of float64 values in one block of centred features: 32 MiB.
_CHUNK = 2**22


@dataclass(frozen=True)
class FID:
    """A Frechet distance and its feature network; values of different networks are not comparable.

    Args:
        value: at least 0; NaN, never 0, if it is undefined.
        feature_net: name of the feature network.
        undefined: the reason why the value is NaN; empty otherwise.

    >>> found = fid(torch.tensor([[0.0]]), torch.tensor([[3.0], [5.0]]), feature_net="mine")
    >>> found.value, found.undefined
    (nan, 'a covariance needs at least 2 reconstructions; there are 1')
    """

    value: float
    feature_net: str
    undefined: str = ""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of a set of features, computed once for many comparisons.

    Args:
        count: number of images n.
        mean: float64 (d,).
        factor: float64 (at most d rows, d), a matrix F with F^T F the covariance.
        finite: whether all features are finite; if not, mean and factor are meaningless.

    >>> private = Gaussian.of(torch.tensor([[3.0], [5.0]]))  # once, for many reconstructions
    >>> private.mean.tolist(), private.count
    ([4.0], 2)
    >>> [fid(torch.tensor(each), private, feature_net="mine").value for each in ([[0.0], [2.0]], [[3.0], [5.0]])]
    [9.0, 0.0]
    """

    count: int
    mean: Tensor
    factor: Tensor
    finite: bool

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Return the Gaussian of features (n, d).

        Raises:
            ValueError: the features have another shape.
        """
        if features.ndim != 2:
            raise ValueError(f"features must be (n, d); got shape {tuple(features.shape)}")
        finite = bool(features.isfinite().all())
        # The decomposition raises an error for values that are not finite.
        return cls(len(features), *_factor(features if finite else features[:0]), finite)


def fid(recon_features: Tensor, private_features: Tensor | Gaussian, *, feature_net: str) -> FID:
    """Return the Frechet distance of two sets of features.

    The distance is biased upwards for few images, so values are comparable only for equal numbers of images. Published
    values with a classifier's features, such as those of [BiDO] on MNIST, are not comparable with Inception's.

    Args:
        recon_features: (n1, d) of all reconstructions, including those that the evaluator does not recognise, as
            returned by :func:`dpmi.metrics.evaluate`.
        private_features: (n2, d) of private images, or their :meth:`Gaussian.of`.
        feature_net: name of the network that computed both.

    Raises:
        ValueError: the features are not (n, d) with equal d, or the name is empty.

    >>> fid(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]), feature_net="none").value
    9.0
    """
    if not feature_net:
        raise ValueError("feature_net must name the feature network; got ''")
    first = Gaussian.of(recon_features)
    second = private_features if isinstance(private_features, Gaussian) else Gaussian.of(private_features)
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"recon_features and private_features must be (n1, d) and (n2, d) with equal d; "
            f"got d = {len(first.mean)} and {len(second.mean)}"
        )
    for name, one in (("reconstructions", first), ("private images", second)):
        if one.count < 2:
            return FID(math.nan, feature_net, f"a covariance needs at least 2 {name}; there are {one.count}")
        if not one.finite:
            return FID(math.nan, feature_net, f"the features of {name} are not finite")
    cross = torch.linalg.svdvals(first.factor @ second.factor.T).sum()
    means = (first.mean - second.mean).square().sum()
    value = float(means + first.factor.square().sum() + second.factor.square().sum() - 2 * cross)
    # For equal sets the rounding error can be negative.
    return FID(max(value, 0.0), feature_net)


def _factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (d,) of features, and F (at most d rows, d) with F^T F their covariance, in float64."""
    mean = features.mean(dim=0, dtype=torch.float64)
    scale = math.sqrt(max(1, len(features) - 1))
    count, width = features.shape
    if count <= width:
        return mean, (features - mean) / scale
    # X = Q R, and Q cancels in the products. The blocks bound the memory to about d rows.
    factor = torch.empty(0, width, dtype=torch.float64, device=features.device)
    for block in torch.split(features, max(width, _CHUNK // width)):
        factor = torch.linalg.qr(torch.cat([factor, block - mean]), mode="r").R
    return mean, factor / scale
