"""Models: the classifiers of the papers, built by name, and tools for their heads, features and latents.

Citations such as [Z20] are resolved in docs/references.md.
"""

from dpmi.models.adaptation import Adaptation, Averaged, averaged, matched
from dpmi.models.anatomy import FEATURES, feature_size, head, layer, replace
from dpmi.models.faceres import Faceres
from dpmi.models.graph_model import GraphModel
from dpmi.models.identity import IDENTITY_LOSSES, IdentityLoss
from dpmi.models.latents import latents
from dpmi.models.modes import device_of, evaluating, in_batches, seeded
from dpmi.models.observe import observe
from dpmi.models.preprocessed import NORMALIZATIONS, Preprocessed, check_normalization
from dpmi.models.registry import REGISTRY, Architecture, build, check_name, check_options, names, origins
from dpmi.models.resized import Resized
from dpmi.models.weights import check_source, load_weights, source_digest

__all__ = [
    "FEATURES",
    "IDENTITY_LOSSES",
    "NORMALIZATIONS",
    "REGISTRY",
    "Adaptation",
    "Architecture",
    "Averaged",
    "Faceres",
    "GraphModel",
    "IdentityLoss",
    "Preprocessed",
    "Resized",
    "averaged",
    "build",
    "check_name",
    "check_normalization",
    "check_options",
    "check_source",
    "device_of",
    "evaluating",
    "feature_size",
    "head",
    "in_batches",
    "latents",
    "layer",
    "load_weights",
    "matched",
    "names",
    "observe",
    "origins",
    "replace",
    "seeded",
    "source_digest",
]
