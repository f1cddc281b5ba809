"""Whether a given model is used as it was trained; an attack on a model that gets wrong inputs seems to fail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dpmi import metrics
from dpmi.data import ImageSet
from dpmi.data.images import evenly
from dpmi.models import NORMALIZATIONS, Preprocessed, evaluating, in_batches

from .spec import NormalizeSpec, Outputs

#: Maximum number of images that are classified, evenly spaced.
_ASKED = 1024

#: Images per forward pass; an evaluator's may be many times larger than the study's.
_AT_ONCE = 128

#: A model is near guessing if it is less than this share of the way from guessing to perfect.
_NEAR = 0.1

#: An input range is named if the model recognises that much more of the images under it.
_CLEARLY = 0.1

_OTHERS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    **NORMALIZATIONS,
    "0/0.00392": ((0.0,), (1 / 255,)),
}
"""Input ranges that models are trained with; the last is that of pixels from 0 to 255."""


def returns_probabilities(module: nn.Module, images: ImageSet) -> bool:
    """Return whether a classifier returns probabilities: numbers from 0 to 1 whose sum over the classes is 1."""
    with evaluating(module):
        found = in_batches(module, images.images)
    sums = found.sum(dim=1)
    return bool((found >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def check(module: nn.Module, images: ImageSet, *, normalize: NormalizeSpec | None, outputs: Outputs) -> None:
    """Raise an error if the model seems to be used in another way than it was trained.

    Args:
        module: the classifier of the checkpoint, without :class:`dpmi.models.Preprocessed`.
        images: its training images, at most 1,024 of which are classified.
        normalize: the preprocessing that the user gave; None if none was given.
        outputs: what the user said it returns.

    Raises:
        ValueError: as :func:`check_range`; or it returns probabilities and ``outputs`` does not say so, or conversely.
    """
    some = _some(images)
    given = NORMALIZATIONS["none"] if normalize is None else (normalize.mean, normalize.std)
    probabilities = returns_probabilities(Preprocessed(module, mean=given[0], std=given[1]), some)
    if probabilities != (outputs == "probabilities"):
        raise ValueError(
            "the model returns probabilities, whose sum is 1 for every image, and attacks expect logits: a softmax is "
            "likely its last layer. Remove it, or give outputs = 'probabilities', which takes their logarithms"
            if probabilities
            else "outputs is 'probabilities', but the sum of the model's outputs is not 1 for every image; leave it out"
        )
    if normalize is None:
        check_range(module, some, model="the model", shown="its training images")


def check_range(module: nn.Module, images: ImageSet, *, model: str, shown: str) -> None:
    """Raise an error if a classifier seems to expect another input range than [0, 1].

    Args:
        module: the classifier, without :class:`dpmi.models.Preprocessed`.
        images: images of its classes, at most 1,024 of which are classified.
        model, shown: what the classifier and the images are, for the error.

    Raises:
        ValueError: it recognises hardly more of the images than guessing does, or clearly more under another range.
    """
    some = _some(images)

    def accuracy(mean: Sequence[float], std: Sequence[float]) -> float:
        return metrics.accuracy(
            Preprocessed(module, mean=mean, std=std), some.images, some.labels, batch_size=_AT_ONCE
        )

    guessing = float(some.labels.bincount().max()) / len(some)
    fits = {
        name: accuracy(*numbers)
        for name, numbers in _OTHERS.items()
        if len(numbers[0]) in (1, some.images.shape[1])
    }
    found, best = fits["none"], max(fits, key=lambda name: fits[name])
    near = found - guessing < _NEAR * (1 - guessing)
    if near or fits[best] - found > _CLEARLY:
        raise ValueError(
            f"{model} recognises {found:.1%} of {shown}, where guessing recognises {guessing:.1%}: "
            + (
                f"under normalize {best!r} it recognises {fits[best]:.1%}, so it was likely trained so; give that"
                if fits[best] - found > _CLEARLY
                else "the classes may be in another order, the images not those of its training, or its input range "
                "an unusual one; give normalize as mean and std. If it is as bad as that, give normalize 'none'"
            )
        )


def _some(images: ImageSet) -> ImageSet:
    kept = evenly(len(images), _ASKED)
    return ImageSet(images.images[kept], images.labels[kept])
