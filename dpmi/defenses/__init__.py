"""Ways of training a classifier so that it is harder to invert: one file per defence."""

from .base import Defense, Session
from .bucket_dp import BucketDP, ClassDP, SubclassDP
from .none import NoDefense
from .private import PrivateDefense
from .record_dp import RecordDP
from .registry import REGISTRY, get, names
from .training import Recipe, Trained, train

__all__ = [
    "REGISTRY",
    "BucketDP",
    "ClassDP",
    "Defense",
    "NoDefense",
    "PrivateDefense",
    "Recipe",
    "RecordDP",
    "Session",
    "SubclassDP",
    "Trained",
    "get",
    "names",
    "train",
]
