"""Mean and covariance of public images: what an attacker knows of images before the attacker sees the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.linalg import eigh
from torch import Tensor
from torch.nn import functional as F

from .images import evenly
from .lazy import Images, mean_image

RANK = 150
"""Maximum number of principal components."""

SAMPLES = 1024
"""Maximum number of images, evenly spaced, from which the covariance is computed; the mean is of all images."""

#: Variances below this share of the largest one are rounding.
_NEGLIGIBLE = 1e-7


@dataclass(frozen=True, eq=False)
class PublicGaussian:
    """The covariance Sigma of images as its largest principal components, and one variance for all other directions.

    Args:
        mean: float64 (d,), the mean image, flattened.
        components: float64 (d, r), orthonormal columns.
        variances: float64 (r,), the eigenvalues of Sigma that belong to them, in decreasing order, above 0.
        rest: the variance in every direction orthogonal to them, 0 or more.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def of(cls, images: Images, *, rank: int = RANK) -> PublicGaussian:
        """Return the mean and covariance of images (M, C, H, W).

        Args:
            images: in [0, 1], at least 2 different ones.
            rank: maximum number of principal components, at least 1.

        Raises:
            ValueError: there are fewer than 2 images, or all are equal.
        """
        mean = mean_image(images).flatten()
        some = images[evenly(len(images), SAMPLES)].flatten(1).double()
        centred = some - some.mean(dim=0) if len(some) else some
        total = float(centred.square().sum()) / max(len(centred) - 1, 1)
        if len(images) < 2 or total <= 0:
            raise ValueError(
                f"the public images must be at least 2 different images, because their covariance is needed; got "
                f"{len(images)} images" + (" that are all equal" if len(images) > 1 else "")
            )
        count, size = centred.shape
        # The smaller of the two matrices of products has the same eigenvalues, up to zeros.
        wide = size > count
        products = (centred @ centred.T if wide else centred.T @ centred) / (count - 1)
        # SciPy computes only the largest eigenvalues, which takes half the time of all of them.
        last = len(products) - 1
        found = eigh(products.cpu().numpy(), subset_by_index=(max(0, last - rank + 1), last))
        values, vectors = (torch.from_numpy(part).to(some.device).flip(-1) for part in found)
        kept = values > _NEGLIGIBLE * values[0]
        values, vectors = values[kept], vectors[:, kept]
        if wide:
            vectors = F.normalize(centred.T @ vectors, dim=0)
        left = max(total - float(values.sum()), 0.0)
        return cls(mean, vectors, values, left / (size - len(values)) if size > len(values) else 0.0)

    @property
    def total(self) -> float:
        """The sum of all variances, trace Sigma."""
        size, rank = self.components.shape
        return float(self.variances.sum()) + self.rest * (size - rank)

    def apply(self, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        """Return f(Sigma) v for each vector v.

        Args:
            function: f, maps eigenvalues to numbers, elementwise.
            vectors: float64 (n, d).
        """
        of_rest = function(vectors.new_tensor(self.rest))
        inside = vectors @ self.components
        return (inside * (function(self.variances) - of_rest)) @ self.components.T + of_rest * vectors

    def coordinates(self, images: Tensor, *, power: float) -> Tensor:
        """Return the centred images in the principal components, each multiplied by a power of its variance.

        A power of -1/2 whitens: public images then have covariance 1.

        Args:
            images: (n, C, H, W).
            power: of the variances.

        Returns:
            float64 (n, r).
        """
        centred = images.flatten(1).double() - self.mean
        return (centred @ self.components) * self.variances**power
