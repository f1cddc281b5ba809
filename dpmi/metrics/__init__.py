"""How close an attacker came, what that is worth without the model, and how good the classifier is."""

from .accuracy import accuracy, confidence
from .advantage import advantage, advantage_over_nearest, success_rate
from .attack_accuracy import AttackAccuracy, attack_accuracy, check_evaluator
from .baselines import Baselines, baselines
from .distance import Distances, mia_distance
from .features import Evaluation, evaluate, feature_distance, knn_distance
from .fid import FID, Gaussian, fid
from .fisher import classification_information, inversion_information
from .intervals import (
    Interval,
    confidence_interval,
    paired_difference,
    share_interval,
    student_interval,
)
from .knowledge import KnowledgeExtraction, knowledge_extraction
from .manifold import Manifolds, balls, manifolds
from .per_class import ClassValue, class_means, worst_class
from .similarity import best_psnr, best_ssim, lpips_distance, lpips_network
from .tradeoff import tradeoff_ratio

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
    "attack_accuracy": "share of reconstructions that an evaluator takes for their class; top-1 and top-5",
    "knn_distance": "squared distance to the nearest private image of the class, in an evaluator's features",
    "feature_distance": "squared distance to the mean private image of the class, in an evaluator's features",
    "fid": "Frechet inception distance of all reconstructions to private images, features named",
    "manifolds": "precision, recall, density and coverage of the private images, per class (k = 3)",
    "knowledge_extraction": "accuracy on private images of a student trained on the reconstructions alone",
    "best_ssim": "largest SSIM with a private image of the class",
    "best_psnr": "largest peak signal-to-noise ratio with a private image of the class, in dB",
    "lpips_distance": "smallest LPIPS distance (AlexNet) to a private image of the class",
    "worst_class": "the class that an attacker got nearest to, and its value",
    "tradeoff_ratio": "attack accuracy that a defence saves, over the accuracy that it costs",
    "robustness": "accuracy under FGSM, PGD, BIM and one pixel; success if targeted; see dpmi side-effects",
    "backdoor": "how often a trigger hidden in the training images works: BadNets, Blended; see dpmi side-effects",
    "fisher": "Fisher information of every layer for classification and for inversion; see dpmi layers",
}

__all__ = [
    "FID",
    "METRICS",
    "AttackAccuracy",
    "Baselines",
    "ClassValue",
    "Distances",
    "Evaluation",
    "Gaussian",
    "Interval",
    "KnowledgeExtraction",
    "Manifolds",
    "accuracy",
    "advantage",
    "advantage_over_nearest",
    "attack_accuracy",
    "balls",
    "baselines",
    "best_psnr",
    "best_ssim",
    "check_evaluator",
    "class_means",
    "classification_information",
    "confidence",
    "confidence_interval",
    "evaluate",
    "feature_distance",
    "fid",
    "inversion_information",
    "knn_distance",
    "knowledge_extraction",
    "lpips_distance",
    "lpips_network",
    "manifolds",
    "mia_distance",
    "paired_difference",
    "share_interval",
    "student_interval",
    "success_rate",
    "tradeoff_ratio",
    "worst_class",
]
