"""Ways of training a classifier so that it is harder to invert: one file per defence."""

from .base import Defense, Session, Setup
from .bido import BiDO, BiDOCOCO, BiDOHSIC
from .bucket_dp import BucketDP, ClassDP, SubclassDP
from .composition import compose
from .none import NoDefense
from .objective import Batch, Objective
from .private import PrivateDefense
from .record_dp import RecordDP
from .registry import REGISTRY, get, names
from .training import Recipe, Trained, check, train

__all__ = [
    "REGISTRY",
    "Batch",
    "BiDO",
    "BiDOCOCO",
    "BiDOHSIC",
    "BucketDP",
    "ClassDP",
    "Defense",
    "NoDefense",
    "Objective",
    "PrivateDefense",
    "Recipe",
    "RecordDP",
    "Session",
    "Setup",
    "SubclassDP",
    "Trained",
    "check",
    "compose",
    "get",
    "names",
    "train",
]
