"""The data sets: what the private model is trained on, and what its attacker may look at."""

from dpmi.data.registry import DATASETS, load, names
from dpmi.data.split import Distance, ImageSet, Split

__all__ = ["DATASETS", "Distance", "ImageSet", "Split", "load", "names"]
