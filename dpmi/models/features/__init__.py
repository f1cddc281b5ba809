"""Public features: a frozen extractor in front of a small head, which is all that private records train.

The noise of a private step grows with the number of trained coordinates. On good features, a linear head of a few
hundred coordinates is accurate at an epsilon at which a network from scratch is useless.
"""

from .classifier import FeatureClassifier, on_features
from .extractor import Extractor, Provenance, mirrored
from .pretrained import efficientnet_lite0, faceres_features, torchvision_features
from .public_cnn import PublicCnn, PublicTraining, train_public_cnn
from .scattering import Scattering, scattering
from .statistics import PublicStatistics

__all__ = [
    "Extractor",
    "FeatureClassifier",
    "Provenance",
    "PublicCnn",
    "PublicStatistics",
    "PublicTraining",
    "Scattering",
    "efficientnet_lite0",
    "faceres_features",
    "mirrored",
    "on_features",
    "scattering",
    "torchvision_features",
    "train_public_cnn",
]
