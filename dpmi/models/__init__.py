"""The classifiers of the papers, built by name, and what is where in them."""

from dpmi.models.anatomy import FEATURES, feature_size, head, layer, replace
from dpmi.models.observe import evaluating, observe
from dpmi.models.registry import MODELS, build, names

__all__ = [
    "FEATURES",
    "MODELS",
    "build",
    "evaluating",
    "feature_size",
    "head",
    "layer",
    "names",
    "observe",
    "replace",
]
