"""How close an attacker came, what that is worth without the model, and how good the classifier is."""

from .accuracy import accuracy, confidence
from .advantage import Interval, advantage, advantage_over_nearest, confidence_interval, success_rate
from .baselines import Baselines, baselines
from .distance import Distances, mia_distance
from .fisher import classification_information, inversion_information
from .paired import paired_difference

#: One line per metric, for listings.
METRICS: dict[str, str] = {
    "euclidean": "MIA distance: Euclidean, to the nearest private image of the class",
    "ssim": "MIA distance: 1 - SSIM (11x11 Gaussian window), to the nearest private image of the class",
    "baselines": "MIA distance without a model: blank image, public mean, nearest public image (an oracle)",
    "advantage": "share of the distance without the model that the attack saved, with a bootstrap interval",
    "success_rate": "share of classes with an advantage above 0, with a Clopper-Pearson interval",
    "paired_difference": "mean difference of two defences over the same seeds, with a paired Student interval",
    "accuracy": "fraction of images that the classifier labels correctly",
    "confidence": "the classifier's probability of an image's label",
    "robustness": "accuracy under FGSM, PGD, BIM and one pixel; success if targeted; see dpmi side-effects",
    "backdoor": "how often a trigger hidden in the training images works: BadNets, Blended; see dpmi side-effects",
    "fisher": "Fisher information of every layer for classification and for inversion; see dpmi layers",
}

__all__ = [
    "METRICS",
    "Baselines",
    "Distances",
    "Interval",
    "accuracy",
    "advantage",
    "advantage_over_nearest",
    "baselines",
    "classification_information",
    "confidence",
    "confidence_interval",
    "inversion_information",
    "mia_distance",
    "paired_difference",
    "success_rate",
]
