"""The data sets: what the private model is trained on, and what its attacker may look at."""

from dpmi.data.read_omniglot import Characters, read_characters
from dpmi.data.registry import REGISTRY, Dataset, load, names
from dpmi.data.split import Distance, ImageSet, Split

__all__ = [
    "REGISTRY",
    "Characters",
    "Dataset",
    "Distance",
    "ImageSet",
    "Split",
    "load",
    "names",
    "read_characters",
]
