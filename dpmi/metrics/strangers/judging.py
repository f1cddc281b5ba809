"""A judge that needs no training: the class of a reconstruction is that of the nearest private image in features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distance import class_members
from ..features import check_features
from ..neighbors import PAIRS


def class_similarities(
    features: Tensor, labels: Tensor, private_features: Tensor, private_labels: Tensor, classes: Sequence[int]
) -> Tensor:
    """Return the largest cosine of each reconstruction with a private image of each candidate class.

    They take the place of an evaluator's logits: :func:`dpmi.metrics.attack_accuracy` of them is the share of
    reconstructions whose nearest private image is one of their class. For an attacker without the model it is 1/K on
    average, as labels say nothing about images.

    Args:
        features: (R, d) of reconstructions, each of length 1, as returned by :meth:`Stranger.features`.
        labels: int64 (R,), the attacked class of each.
        private_features: (N, d) of private images of all candidates, and perhaps of other classes.
        private_labels: int64 (N,).
        classes: the K candidates, which include the attacked classes.

    Returns:
        float64 (R, K) in [-1, 1], columns in the order of ``classes``.

    Raises:
        ValueError: the shapes do not fit, a candidate has no private image, or an attacked class is no candidate.

    >>> private = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> found = class_similarities(
    ...     torch.tensor([[0.0, 1.0]]), torch.tensor([3]), private, torch.tensor([3, 3, 7]), classes=[3, 7]
    ... )
    >>> [round(cosine, 3) for cosine in found[0].tolist()]
    [1.0, 0.8]
    """
    check_features(features, labels, private_features, private_labels)
    others = sorted(set(labels.tolist()) - set(classes))
    if others:
        raise ValueError(f"classes must include the attacked classes; {others} are missing")
    flat = features.double()
    columns = []
    for each in classes:
        own = private_features[class_members(private_labels, each)].double()
        blocks = torch.split(flat, max(1, PAIRS // len(own)))
        columns.append(torch.cat([(block @ own.T).amax(dim=1) for block in blocks]))
    return torch.stack(columns, dim=1).clamp(-1, 1)


def type_one_errors(own: Tensor, strangers: Sequence[Tensor]) -> Tensor:
    """Return which reconstructions the study's own evaluator accepts and no stranger does.

    Such pictures fool networks that are trained for the same task as the target, and show the class to nobody else
    [HKN25], who let people and language models decide. Here the strangers decide, so a picture that only they miss
    counts as an error too.

    Args:
        own: bool (R,), whether the own evaluator assigns each to its class.
        strangers: bool (R,) of each stranger, at least 1.

    Returns:
        bool (R,).

    >>> type_one_errors(torch.tensor([True, True, False]), [torch.tensor([True, False, False])]).tolist()
    [False, True, False]
    """
    return own & ~torch.stack(list(strangers)).any(dim=0)
