"""Metrics: the success of a model inversion attack, its baselines, and the quality of the classifier.

MIA stands for model inversion attack, as in *MIA distance*, and not for membership inference attack. The *advantage* of
an attack is the relative reduction of the MIA distance compared with a baseline that needs no model (a blank image or
the mean public image): 1 for a perfect reconstruction, 0 for no gain. It is not the advantage of membership inference,
a difference between true and false positive rates.

Citations such as [TL-DMI] are resolved in docs/references.md.
"""

from .accuracy import accuracy, confidence
from .advantage import advantage, advantage_over_nearest, success_rate
from .attack_accuracy import AttackAccuracy, attack_accuracy, check_evaluator
from .baselines import Baselines, baselines
from .ceilings import Ceilings, ceilings
from .distance import Distances, mia_distance
from .features import Evaluation, evaluate, feature_distance, knn_distance
from .fid import FID, Gaussian, fid
from .fisher import classification_information, inversion_information
from .intervals import (
    Interval,
    confidence_interval,
    games_interval,
    paired_difference,
    share_interval,
    student_interval,
)
from .knowledge import KnowledgeExtraction, knowledge_extraction
from .linkage import (
    SCORERS,
    Identification,
    Linkage,
    Scorer,
    candidate_distances,
    distances_among_classes,
    identification,
    linkage,
)
from .manifold import Manifolds, balls, manifolds
from .per_class import ClassValue, class_means, worst_class
from .registry import METRICS, REGISTRY, Metric, added, added_columns
from .similarity import best_psnr, best_ssim, lpips_distance, lpips_network
from .tradeoff import tradeoff_ratio
from .unit_game import margins, unit_auc, unit_statistics

__all__ = [
    "FID",
    "METRICS",
    "REGISTRY",
    "SCORERS",
    "AttackAccuracy",
    "Baselines",
    "Ceilings",
    "ClassValue",
    "Distances",
    "Evaluation",
    "Gaussian",
    "Identification",
    "Interval",
    "KnowledgeExtraction",
    "Linkage",
    "Manifolds",
    "Metric",
    "Scorer",
    "accuracy",
    "added",
    "added_columns",
    "advantage",
    "advantage_over_nearest",
    "attack_accuracy",
    "balls",
    "baselines",
    "best_psnr",
    "best_ssim",
    "candidate_distances",
    "ceilings",
    "check_evaluator",
    "class_means",
    "classification_information",
    "confidence",
    "confidence_interval",
    "distances_among_classes",
    "evaluate",
    "feature_distance",
    "fid",
    "games_interval",
    "identification",
    "inversion_information",
    "knn_distance",
    "knowledge_extraction",
    "linkage",
    "lpips_distance",
    "lpips_network",
    "manifolds",
    "margins",
    "mia_distance",
    "paired_difference",
    "share_interval",
    "student_interval",
    "success_rate",
    "tradeoff_ratio",
    "unit_auc",
    "unit_statistics",
    "worst_class",
]
