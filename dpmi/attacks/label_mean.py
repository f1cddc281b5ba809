"""Label mean: the average of the public images that the target most associates with a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dpmi.data.lazy import WHOLE, at_once, blocks, placed, taken
from dpmi.models.modes import Gathered

from .base import Attack, Candidates, Task
from .checks import at_least_one, require
from .stages.starts import child_generator
from .target import Target

#: Number of records in one query.
_TOGETHER = 1024


@dataclass(frozen=True, kw_only=True)
class LabelMean(Attack):
    """The mean of the public images with the largest centred logit of the class.

    With the public images as prior, an image x has posterior probability proportional to p(y|x). The posterior mean
    sum_x p(y|x) x / sum_x p(y|x) is the image of least expected squared distance to an image drawn from this posterior.
    Most other attacks return a mode instead, an image of high confidence, which can be far from every image of the
    class. The confidences of a trained classifier are extreme, so the weights are replaced by equal weights of the
    images that rank highest, the selection of PLG-MI [X. Yuan et al., AAAI 2023]. Images that rank equally at the end
    of the list share the remaining weight, so a target that says nothing gives the mean of all public images.

    The rank is by l_y - mean_k l_k, the centred logit. It is computed from logits or log-probabilities, which give the
    same rank. For a target that returns labels only, it is by the frequency with which noisy copies of the image get
    the label, an estimate of the same order [J. Cohen, E. Rosenfeld, Z. Kolter, ICML 2019].

    >>> from dpmi import data, models
    >>> digits = data.load("digits")
    >>> target = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> attack, seed = LabelMean(), torch.Generator().manual_seed(0)
    >>> knowledge = attack.fit(target, public=digits.public, image_shape=digits.image_shape)
    >>> recons = attack.run(
    ...     target, torch.arange(10), image_shape=digits.image_shape, generator=seed, knowledge=knowledge)
    >>> recons.images.shape, recons.grad_calls
    (torch.Size([10, 1, 8, 8]), 0)

    Args:
        images: number of public images in the mean.
        copies: noisy copies of each public image, for a target that returns labels only.
        noise: standard deviation of their noise, for pixels in [0, 1].

    Raises:
        ValueError: a value is outside its range.
    """

    name: ClassVar[str] = "label-mean"
    requires: ClassVar[frozenset[str]] = frozenset({"labels", "public_data"})

    images: int = 10
    copies: int = 20
    noise: float = 0.2

    def __post_init__(self) -> None:
        at_least_one(self, "images", "copies")
        require("noise", self.noise, 0 < self.noise < float("inf"), "above 0 and finite")

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        public = task.knowledge.public
        random = child_generator(task.seed, 0, 0)
        # A budget may end the queries early; the images seen by then must not be those of a few people.
        public = placed(taken(public, torch.randperm(len(public), generator=random)), labels.device)
        copies = max(1, target.affordable(self.copies)) if target.labels_only else 1
        asked, done = Gathered(len(public)), 0
        for some in blocks(public, max(1, _TOGETHER // copies)):
            covered = target.affordable(len(some), queries=copies)
            if covered:
                asked.add(self._ranks(target, some[:covered], copies, random))
            done += covered
            task.progress(done, len(public))
            if covered < len(some):
                break
        task.progress(len(public), len(public))
        ranks = asked.whole[:, labels]
        weights = highest(ranks, self.images)
        size = at_once(public, WHOLE)
        pictures = weights.new_zeros(len(labels), public.shape[1:].numel())
        # A budget may have ended the queries before the last images.
        for own, some in zip(torch.split(weights, size), blocks(public, size), strict=False):
            pictures += own.T @ some[: len(own)].flatten(1)
        return Candidates(
            pictures.clamp(0, 1).view(len(labels), *task.image_shape),
            torch.ones_like(labels),
            torch.zeros_like(labels, dtype=torch.bool),
        )

    def _ranks(self, target: Target, images: Tensor, copies: int, random: torch.Generator) -> Tensor:
        """Return the value (n, K) that ranks the images of each class."""
        if not target.labels_only:
            with torch.no_grad():
                logits = target.logits(images)
            return logits - logits.mean(dim=1, keepdim=True)
        noisy = images.repeat_interleave(copies, dim=0)
        noisy = noisy + self.noise * torch.randn(noisy.shape, generator=random).to(noisy)
        with torch.no_grad():
            predicted = target.logits(noisy.clamp_(0, 1))
        return predicted.view(len(images), copies, -1).mean(dim=1)


def highest(ranks: Tensor, count: int) -> Tensor:
    """Return weights with sum 1 of the ``count`` highest rows of every column; rows that tie for the last share it.

    Args:
        ranks: (n, R).
        count: at least 1; above n it counts as n.

    Returns:
        float32 (n, R).

    >>> highest(torch.tensor([[3.0, 0.0], [2.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), 2)
    tensor([[0.5000, 0.2500],
            [0.2500, 0.2500],
            [0.2500, 0.2500],
            [0.0000, 0.2500]])
    """
    count = min(count, len(ranks))
    last = ranks.topk(count, dim=0).values[-1]
    above, equal = (ranks > last).float(), (ranks == last).float()
    return (above + equal * (count - above.sum(dim=0)) / equal.sum(dim=0)) / count
