"""Wiener: the mean gradient of a class, filtered by the covariance of public images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.data.lazy import BLOCK, Images, at_once, blocks, placed
from dpmi.data.public_gaussian import RANK, PublicGaussian

from .base import Attack, Candidates, Task
from .checks import at_least_one, require
from .stages.starts import child_generator
from .target import Target

#: Number of images in one query.
_TOGETHER = 32


@dataclass(frozen=True, kw_only=True)
class Wiener(Attack):
    """The Gaussian posterior mean of the class image, given the target's gradient.

    Let m and Sigma be the mean and covariance of the public images, a_y(x) = l_y(x) - mean_k l_k(x) the centred logit,
    and g_y the mean of its gradient over public images. For softmax regression g_y is a row of the weights, which
    training moves from 0 towards the class mean mu_y. Suppose g_y = c (mu_y - m) + noise, with isotropic noise of
    variance s^2, as in a step of differentially private training, and mu_y - m normal with covariance k Sigma. The
    posterior mean of mu_y - m is then proportional to

        u = Sigma (Sigma + tau I)^-1 g_y,        tau = s^2 / (c^2 k),

    the filter of N. Wiener. The scale c is unknown, so u gets the typical length r of mu_y - m: the mean distance of
    the public class means from m, or sqrt(trace(Sigma) / 2) without public classes. The result is ``m + r u / |u|``,
    clipped to [0, 1]. With tau = infinity, u is Sigma g_y up to scale, which by the lemma of C. Stein is the covariance
    of image and logit for normal images: reverse correlation.

    Args:
        images: number of public images over which the gradient is averaged. On faces and digits, 8 images gave the
            same linkage and distance as 256.
        tau_index: tau is this eigenvalue of Sigma, in decreasing order from 1, or the smallest if there are fewer; 30
            for faces, 10 for digits.
        tau: tau itself, at least 0; infinity is allowed. If given, ``tau_index`` is not used.
        rank: maximum number of principal components of Sigma.

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "wiener"
    requires: ClassVar[frozenset[str]] = frozenset({"white_grad", "logits", "public_data"})
    loss: ClassVar[str | None] = "centred-logit"

    images: int = 16
    tau_index: int = 30
    tau: float | None = None
    rank: int = RANK

    def __post_init__(self) -> None:
        at_least_one(self, "images", "tau_index", "rank")
        if self.tau is not None:
            require("tau", self.tau, self.tau >= 0, "0 or more")

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        public = placed(task.knowledge.public, labels.device)
        prior = PublicGaussian.of(public, rank=self.rank)
        ascent = self._ascent(target, labels, public, task)
        diverged = ~ascent.isfinite().all(dim=1)
        direction = prior.apply(self._filter(prior), ascent.where(~diverged[:, None], 0.0))
        pictures = prior.mean + typical_distance(prior, public, task.knowledge.labels) * F.normalize(
            direction, dim=1
        )
        pictures = pictures.clamp(0, 1).float().view(len(labels), *task.image_shape)
        return Candidates(pictures, torch.ones_like(labels), diverged)

    def _ascent(self, target: Target, labels: Tensor, public: Images, task: Task) -> Tensor:
        """Return the sum over public images of minus the gradient of the loss of each label, float64 (R, d)."""
        random = child_generator(task.seed, 0, 0)
        points = public[torch.randperm(len(public), generator=random)[: self.images]]
        found = torch.zeros(len(labels), points[0].numel(), dtype=torch.float64, device=labels.device)
        done = 0
        for some in torch.split(points, _TOGETHER):
            covered = target.affordable(len(some), grad_calls=len(labels))
            if covered:
                found -= target.summed_gradients(some[:covered], labels).flatten(1)
            done += covered
            task.progress(done, len(points))
            if covered < len(some):
                break
        task.progress(len(points), len(points))
        return found

    def _filter(self, prior: PublicGaussian) -> Callable[[Tensor], Tensor]:
        tau = float(prior.variances[: self.tau_index][-1]) if self.tau is None else self.tau
        if math.isinf(tau):
            return lambda variances: variances
        if tau == 0:
            return torch.ones_like
        return lambda variances: variances / (variances + tau)


def typical_distance(prior: PublicGaussian, public: Images, labels: Tensor | None) -> float:
    """Return the typical distance of a class mean from the mean of all images.

    Args:
        prior: mean and covariance of the images.
        public: (M, C, H, W).
        labels: int64 (M,), the classes of the images; without them, classes are taken to have half the variance.
    """
    if labels is None:
        return math.sqrt(prior.total / 2)
    _, of = torch.unique(labels.to(public.device), return_inverse=True)
    sums = torch.zeros(int(of.max()) + 1, len(prior.mean), dtype=torch.float64, device=public.device)
    size = at_once(public, BLOCK)
    for some, own in zip(blocks(public, size), torch.split(of, size), strict=True):
        sums.index_add_(0, own, some.flatten(1).double())
    means = sums / of.bincount()[:, None]
    return float((means - prior.mean).norm(dim=1).mean())
