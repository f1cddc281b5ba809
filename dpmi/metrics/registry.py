"""Registry of the metrics: dpmi's own, for listings, and those of installed packages, which every study computes.

>>> METRICS["best_psnr"]
'largest peak signal-to-noise ratio with a private image of the class, in dB'
>>> REGISTRY.names()  # of installed packages; here there is none
[]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from accountants.plugins import PluginError, Registry
from dpmi.data import ImageSet

from .per_class import class_means


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a package, one value for each class, which is added to the tables of every study.

    Args:
        name: name of the metric and of its column.
        description: one line.
        measure: maps reconstructions (R, C, H, W) in [0, 1], their classes int64 (R,) and the private training set to
            one value for each reconstruction (R,); the table contains the mean of each class.
        unit: unit of the values; empty for dimensionless values.
        low: smallest possible value.
        high: largest possible value.
    """

    name: str
    description: str
    measure: Callable[[Tensor, Tensor, ImageSet], Tensor]
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf


REGISTRY: Registry[Metric] = Registry("dpmi.metrics", "metric", Metric)
"""The metrics of installed packages; dpmi's own metrics need further inputs, such as an evaluator."""


def added() -> tuple[Metric, ...]:
    """Return the metrics of installed packages.

    Raises:
        PluginError: (a ValueError) one of them cannot be used.

    >>> [metric.name for metric in added()]  # of installed packages; here there is none
    []
    """
    return tuple(REGISTRY.get(name) for name in REGISTRY.names())


def added_columns(images: Tensor, labels: Tensor, private: ImageSet) -> dict[str, Tensor]:
    """Return the columns of the metrics of installed packages, float64 (K,), classes in ascending order.

    Args:
        images: (R, C, H, W), the reconstructions.
        labels: int64 (R,), their classes.
        private: the private training set.

    Raises:
        PluginError: (a ValueError) a metric does not return one number for each reconstruction.

    >>> import torch
    >>> private = ImageSet(torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]))
    >>> added_columns(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), private)  # no installed package has a metric
    {}
    """
    found = {}
    for metric in added():
        values = metric.measure(images, labels, private)
        if not isinstance(values, Tensor) or values.shape != labels.shape:
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise PluginError(
                f"metric {metric.name!r} must return one number for each of {len(labels)} reconstructions, "
                f"a tensor ({len(labels)},); got {shape}"
            )
        found[metric.name] = class_means(values, labels)[1]
    return found


METRICS: dict[str, str] = {
    "euclidean": "MIA distance: Euclidean, to the nearest private image of the class",
    "ssim": "MIA distance: 1 - SSIM (11x11 Gaussian window), to the nearest private image of the class",
    "baselines": "MIA distance of a blank image, the public mean and the nearest public image (an oracle)",
    "ceilings": "MIA distance of the mean image of the class and of held-out images, beside which to read others",
    "advantage": "reduction of the MIA distance relative to the better baseline, with a bootstrap interval",
    "success_rate": "share of classes with an advantage above 0, with a Clopper-Pearson interval",
    "paired_difference": "mean difference of two defences over the same seeds, with a paired Student interval",
    "accuracy": "fraction of images that the classifier labels correctly",
    "confidence": "the classifier's probability of an image's label",
    "attack_accuracy": "share of reconstructions that an evaluator assigns to their class; top-1 and top-5",
    "strangers": "share of reconstructions that face recognisers of others assign to their class; see docs/attacks.md",
    "linkage": "share of reconstructions nearest to their class among it and decoys, with AUC, exact chance and bound",
    "identification": "share of reconstructions that an evaluator assigns to their class, minus that of a decoy",
    "unit_auc": "AUC of telling the units that trained a model from those that did not",
    "knn_distance": "squared distance to the nearest private image of the class, in an evaluator's features",
    "feature_distance": "squared distance to the mean private image of the class, in an evaluator's features",
    "fid": "Frechet inception distance of all reconstructions to private images, with the feature network",
    "manifolds": "precision, recall, density and coverage of the private images, per class (k = 3)",
    "knowledge_extraction": "accuracy on private images of a student trained on the reconstructions alone",
    "best_ssim": "largest SSIM with a private image of the class",
    "best_psnr": "largest peak signal-to-noise ratio with a private image of the class, in dB",
    "lpips_distance": "smallest LPIPS distance (AlexNet) to a private image of the class",
    "worst_class": "the class with the most successful attack, and its value",
    "tradeoff_ratio": "reduction of the attack accuracy per loss of accuracy",
    "robustness": "accuracy under FGSM, PGD, BIM and one pixel; success if targeted; see dpmi side-effects",
    "backdoor": "success rate of a trigger in the training images: BadNets, Blended; see dpmi side-effects",
    "fisher": "Fisher information of every layer for classification and for inversion; see dpmi layers",
}
"""One-line descriptions of dpmi's metrics, for listings."""
