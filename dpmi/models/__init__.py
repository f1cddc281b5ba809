"""The classifiers of the papers, built by name, and what is where in them."""

from dpmi.models.anatomy import FEATURES, feature_size, head, layer, replace
from dpmi.models.latents import latents
from dpmi.models.observe import evaluating, observe
from dpmi.models.randomness import seeded
from dpmi.models.registry import MODELS, build, check_name, names
from dpmi.models.weights import check_source, load_weights

__all__ = [
    "FEATURES",
    "MODELS",
    "build",
    "check_name",
    "check_source",
    "evaluating",
    "feature_size",
    "head",
    "latents",
    "layer",
    "load_weights",
    "names",
    "observe",
    "replace",
    "seeded",
]
