"""Linkage: whether a reconstruction identifies its class among decoys, classes that trained nothing.

An attacker reconstructs class y; a scorer ranks the true class among K = 1 + Q candidates, the class itself and Q
decoys, by the distance of the reconstruction to each candidate's images. If chance decided which classes are private
(see :mod:`dpmi.data.roles`), an attacker without the model is right in exactly 1 of K cases on average, whatever the
reconstructions are: with all other inputs fixed, the true class is equally likely to be any of the candidates.

**Bound.** Let Q be the distribution of everything that a run releases without the class, and P_i the distribution if
the class is candidate i. The attacker and the scorer are fixed in advance. By the trade-off function of the run,
P_i(guess = i) <= B(Q(guess = i)), where B is :func:`accountants.reconstruction_bound`. The sum over i of Q(guess = i)
is at most 1 and B is concave, so top-1 is at most B(1/K) on average over the roles, and by the same argument with two
candidates the AUC is at most B(1/2). The epsilon must be that of a class; epsilon for a record or a subclass bounds
neither. The best of several attackers or scorers may exceed the bound. [J. Hayes, S. Mahloujifar, B. Balle, NeurIPS
2023; B. Kulynych et al., arXiv 2507.06969]

>>> from dpmi import data
>>> digits = data.load("digits")
>>> means = mean_images(digits.train.images, digits.train.labels, [0, 1, 2])
>>> recons = means.float().view(3, *digits.image_shape)  # the best that an attack could return
>>> def top1(scorer: Scorer) -> list[float]:
...     found = candidate_distances(
...         recons, torch.arange(3), digits.train.images, digits.train.labels, decoys=[3, 4, 5, 6],
...         scorer=scorer, public=digits.public)
...     return linkage(found).top1.tolist()
>>> {scorer: top1(scorer) for scorer in SCORERS}
{'mia': [1.0, 1.0, 1.0], 'whitened': [1.0, 1.0, 1.0]}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.data.images import evenly
from dpmi.data.lazy import Images, taken
from dpmi.data.public_gaussian import PublicGaussian

from .distance import (
    Kind,
    check_images,
    check_labelled,
    check_shape,
    class_members,
    mean_images,
    mia_distance,
)
from .per_class import class_means

Scorer = Literal["mia", "whitened"]
"""How far a reconstruction is from a candidate: the MIA distance, or the angle after whitening by public images."""
SCORERS: tuple[Scorer, ...] = get_args(Scorer)
"""All of them."""

WHITENING = -0.25
"""Power of the public variances in the scorer ``whitened``; -1/2 would whiten fully and magnify noise."""

#: Maximum number of a candidate's images for the scorer ``mia``, evenly spaced.
_COMPARED = 100


class Linkage(NamedTuple):
    """Linkage of each class, float64 (C,).

    Args:
        top1: 1 if the true class is nearest, 1/t if t candidates including it are equally near, else 0; in [0, 1].
        auc: share of the decoys that are farther than the true class; equally far decoys count 1/2; in [0, 1].
    """

    top1: Tensor
    auc: Tensor


def linkage(distances: Tensor) -> Linkage:
    """Return the linkage of each class.

    Args:
        distances: (C, 1 + Q), from the reconstruction of each class to the true class (first column) and to each of Q
            decoys, Q at least 1.

    Raises:
        ValueError: the shape is wrong, or a distance is NaN.

    >>> found = linkage(torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [1.0, 1.0, 3.0]]))
    >>> found.top1.tolist(), found.auc.tolist()
    ([1.0, 0.0, 0.5], [1.0, 0.5, 0.75])
    """
    if distances.ndim != 2 or distances.shape[1] < 2 or bool(distances.isnan().any()):
        raise ValueError(
            "distances must be numbers (C, 1 + Q), to the true class and to Q decoys, Q at least 1; got shape "
            f"{tuple(distances.shape)}"
        )
    own, decoys = distances[:, :1], distances[:, 1:]
    nearer, equal = ((decoys < own).sum(dim=1).double(), (decoys == own).sum(dim=1).double())
    top1 = torch.where(nearer == 0, 1 / (1 + equal), 0.0)
    return Linkage(top1, 1 - (nearer + equal / 2) / decoys.shape[1])


def candidate_distances(
    recons: Tensor,
    labels: Tensor,
    images: Images,
    image_labels: Tensor,
    decoys: Sequence[int],
    *,
    scorer: Scorer,
    public: Images | PublicGaussian,
    kind: Kind = "euclidean",
) -> Tensor:
    """Return the distance of the reconstructions of each class to the true class and to each decoy.

    ``mia`` is :func:`~dpmi.metrics.mia_distance`, the distance to the nearest image of the candidate. ``whitened`` is 1
    minus the cosine between the mean reconstruction and the mean image of the candidate in the principal components of
    the public images, each divided by the fourth root of its variance; reconstructions are centred by the mean over all
    reconstructions, candidates by the mean over all private classes and decoys.

    Args:
        recons: (R, C, H, W) in [0, 1].
        labels: int64 (R,), the attacked classes, numbered as in ``image_labels``; at least 2 different ones for
            ``whitened``.
        images: (N, C, H, W) in [0, 1], images of all attacked classes and decoys, and perhaps of other classes.
        image_labels: int64 (N,).
        decoys: at least 1 class that is not attacked.
        scorer: ``mia`` or ``whitened``.
        public: (M, C, H, W), the public images, or their mean and covariance if these are computed once for many
            calls; only ``whitened`` uses them.
        kind: kind of the MIA distance.

    Returns:
        float64 (C, 1 + Q) for the attacked classes in ascending order.

    Raises:
        ValueError: the shapes do not fit, a class has no image, a decoy is attacked, the public images have no
            variance, too few classes are attacked, or the scorer is unknown.
    """
    check_labelled("recons", recons, labels)
    check_labelled("images", images, image_labels)
    check_shape("recons", recons, images)
    classes: list[int] = torch.unique(labels).tolist()
    attacked = sorted(set(classes) & set(decoys))
    if attacked or not decoys:
        raise ValueError(
            f"decoys must be at least 1 class that is not attacked; got {list(decoys)}"
            + (f", of which {attacked} are attacked" if attacked else "")
        )
    if scorer == "mia":
        return _mia(recons, labels, images, image_labels, decoys, kind=kind)
    if scorer != "whitened":
        raise ValueError(f"scorer must be one of {SCORERS}; got {scorer!r}")
    if len(classes) < 2:
        raise ValueError(
            f"whitened centres the reconstructions, so labels must hold at least 2 classes; got {classes}"
        )
    if not isinstance(public, PublicGaussian):
        check_images("public", public)
        check_shape("public", public, images)
        public = PublicGaussian.of(public)
    cosines = _cosines(recons, labels, images, image_labels, decoys, prior=public)
    return 1 - torch.cat([cosines.diagonal()[:, None], cosines[:, len(cosines) :]], dim=1)


def distances_among_classes(
    recons: Tensor, labels: Tensor, images: Images, image_labels: Tensor, *, public: Images | PublicGaussian
) -> Tensor:
    """Return the distance of the reconstructions of each class to it and to each other attacked class.

    The distance is ``whitened`` of :func:`candidate_distances`. The candidates of a class are all attacked classes, so
    an attacker without the model is right in 1 of C cases on average, as labels say nothing about images. Unlike
    decoys, the candidates trained the model. One class can then be found by elimination, from what the model says about
    the others, so no bound on top-1 follows from the guarantee for that class.

    Args:
        recons, labels, images, image_labels, public: as for :func:`candidate_distances`.

    Returns:
        float64 (C, C) for the attacked classes in ascending order: first the class itself, then the others.

    Raises:
        ValueError: as for :func:`candidate_distances`.
    """
    check_labelled("recons", recons, labels)
    check_labelled("images", images, image_labels)
    check_shape("recons", recons, images)
    if not isinstance(public, PublicGaussian):
        public = PublicGaussian.of(public)
    cosines = _cosines(recons, labels, images, image_labels, (), prior=public)
    classes = len(cosines)
    if classes < 2:
        raise ValueError("labels must hold at least 2 classes, which are told apart; got 1")
    others = ~torch.eye(classes, dtype=torch.bool)
    return 1 - torch.cat([cosines.diagonal()[:, None], cosines[others].view(classes, classes - 1)], dim=1)


class Identification(NamedTuple):
    """What an evaluator says of each reconstruction, float64 (R,).

    Args:
        own: 1 if it says the true class, else 0.
        decoy: the share of the decoys that it says: 1/Q if it says one of Q decoys, else 0.

    >>> found = Identification(own=torch.tensor([1.0, 0.0]), decoy=torch.tensor([0.0, 0.25]))
    >>> found.gain.tolist()
    [1.0, -0.25]
    """

    own: Tensor
    decoy: Tensor

    @property
    def gain(self) -> Tensor:
        """``own - decoy``, in [-1/Q, 1]; exactly 0 on average for an attacker without the model.

        A model is the model without the class for each of its decoys, if the roles and the labels are drawn at random.
        So ``own`` on average exceeds ``decoy`` by no more than the total variation between the releases of two
        neighbouring data sets, delta at epsilon 0 for the unit class and one class replaced.
        """
        return self.own - self.decoy


def identification(logits: Tensor, labels: Tensor, decoys: Sequence[int]) -> Identification:
    """Return whether an evaluator identifies each reconstruction as its class, and as a decoy.

    Args:
        logits: (R, K), of an evaluator that knows all private classes and decoys, and perhaps others.
        labels: int64 (R,), the true classes.
        decoys: classes that are not attacked, at least 1.

    Raises:
        ValueError: a label or decoy is not a class of the evaluator.

    >>> logits = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]])
    >>> found = identification(logits, torch.tensor([0, 1]), decoys=[2, 3])
    >>> found.own.tolist(), found.decoy.tolist()  # the second reconstruction is taken for a decoy
    ([1.0, 0.0], [0.0, 0.5])
    """
    last = max(int(labels.max()), *decoys)
    if last >= logits.shape[1]:
        raise ValueError(f"the evaluator must know class {last}; it has {logits.shape[1]} classes")
    said = logits.argmax(dim=1)
    of_decoys = torch.isin(said, torch.tensor(decoys, device=said.device))
    return Identification((said == labels).double(), of_decoys.double() / len(decoys))


def _mia(
    recons: Tensor, labels: Tensor, images: Images, image_labels: Tensor, decoys: Sequence[int], *, kind: Kind
) -> Tensor:
    named = [*torch.unique(labels).tolist(), *decoys]
    members = (class_members(image_labels, each) for each in named)
    some = torch.cat([rows[evenly(len(rows), _COMPARED)] for rows in members])
    compared, of = taken(images, some), image_labels[some]

    def distance(candidates: Tensor) -> Tensor:
        return class_means(mia_distance(recons, candidates, compared, of, kind=kind).values, labels)[1]

    return torch.stack(
        [distance(labels), *(distance(torch.full_like(labels, decoy)) for decoy in decoys)], dim=1
    )


def _cosines(
    recons: Tensor,
    labels: Tensor,
    images: Images,
    image_labels: Tensor,
    decoys: Sequence[int],
    *,
    prior: PublicGaussian,
) -> Tensor:
    """Return the whitened cosines (C, C + Q) of the reconstructions of C classes to these classes and Q decoys."""
    classes, of = torch.unique(labels, return_inverse=True)
    means = mean_images(images, image_labels, [*classes.tolist(), *decoys])
    known = prior.coordinates(means, power=WHITENING)
    known = F.normalize(known - known.mean(dim=0), dim=1)
    # They are centred below, so any origin serves; from one of them, equal reconstructions are exactly 0, a tie.
    flat = recons.flatten(1).double()
    found = ((flat - flat[0]) @ prior.components) * prior.variances**WHITENING
    found = torch.zeros(len(classes), found.shape[1], dtype=found.dtype).index_add_(0, of, found)
    found = found / torch.bincount(of)[:, None]
    found = F.normalize(found - found.mean(dim=0), dim=1)
    return found @ known.T
