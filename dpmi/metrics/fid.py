"""Frechet inception distance between reconstructions and private images [Heusel et al., NeurIPS 2017, eq. 6].

It is the squared 2-Wasserstein distance of the two Gaussians that have the features' means and covariances.
The covariances S1 and S2 of fewer images than features are singular, where a matrix square root is slow and
inexact. It is not needed: tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T, of centred features,
over sqrt((n1 - 1)(n2 - 1)), because S1 S2 and X1 X2^T X2 X1^T have the same eigenvalues but for zeros.
Torchmetrics takes square roots of the eigenvalues of S1 S2, hundreds of times as slow, whose rounding below
zero it drops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Numbers of float64 of one block of centred features: 32 MiB.
_CHUNK = 2**22


@dataclass(frozen=True)
class FID:
    """A Frechet distance and whose features it is of: numbers of different networks do not compare.

    Args:
        value: at least 0; NaN, never 0, where it is undefined.
        feature_net: the network that the features are of.
        undefined: why the value is NaN; empty otherwise.
    """

    value: float
    feature_net: str
    undefined: str = ""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """What the distance needs to know of a set of features, so that it is found once for many comparisons.

    Args:
        count: n.
        mean: float64 (d,).
        factor: float64 (at most d rows, d), F with F^T F the covariance.
        finite: whether all features are; if not, the other two say nothing.
    """

    count: int
    mean: Tensor
    factor: Tensor
    finite: bool

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Compute it from features (n, d).

        Raises:
            ValueError: features of another shape.
        """
        if features.ndim != 2:
            raise ValueError(f"features must be (n, d); got shape {tuple(features.shape)}")
        finite = bool(features.isfinite().all())
        # A decomposition of what is not finite is an error.
        return cls(len(features), *_factor(features if finite else features[:0]), finite)


def fid(recon_features: Tensor, private_features: Tensor | Gaussian, *, feature_net: str) -> FID:
    """Return the Frechet distance of two sets of features.

    Few images make it larger by a bias of their own, so numbers compare at equal numbers of images only. What is
    published as FID under a classifier's features, as in [BiDO] on MNIST, does not compare with Inception's.

    Args:
        recon_features: (n1, d) of all reconstructions, as :func:`dpmi.metrics.evaluate` returns them: also of those
            that the evaluator does not recognise.
        private_features: (n2, d) of private images, or what :meth:`Gaussian.of` found in them.
        feature_net: name of the network that computed both.

    Raises:
        ValueError: features that are not (n, d) of one d, or no name.

    >>> fid(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]), feature_net="none").value
    9.0
    """
    if not feature_net:
        raise ValueError("feature_net must name the network that the features are of; got ''")
    first = Gaussian.of(recon_features)
    second = private_features if isinstance(private_features, Gaussian) else Gaussian.of(private_features)
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"recon_features and private_features must be (n1, d) and (n2, d) of one d; "
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
    # Equal sets leave a rounding error of either sign.
    return FID(max(value, 0.0), feature_net)


def _factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,) of features, and F (at most d rows, d) with F^T F their covariance, in float64."""
    mean = features.mean(dim=0, dtype=torch.float64)
    scale = math.sqrt(max(1, len(features) - 1))
    count, width = features.shape
    if count <= width:
        return mean, (features - mean) / scale
    # X = Q R, and Q cancels in the products; block by block, so that only d rows are kept.
    factor = torch.empty(0, width, dtype=torch.float64, device=features.device)
    for block in torch.split(features, max(width, _CHUNK // width)):
        factor = torch.linalg.qr(torch.cat([factor, block - mean]), mode="r").R
    return mean, factor / scale
