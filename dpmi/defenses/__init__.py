"""Defences: training methods that make a classifier harder to invert, one file per defence.

Citations such as [LC24] are resolved in docs/references.md.
"""

from .augmentation import Augmentation
from .base import Defense
from .bido import BiDO, BiDOCOCO, BiDOHSIC
from .bucket_dp import BucketDP, ClassDP, SubclassDP, UserDP
from .calor import CALoR, CompressedHead
from .composition import compose
from .label_smoothing import LabelSmoothing
from .mid import MID, VariationalBottleneck
from .none import NoDefense
from .objective import Batch, Objective
from .private import PrivateDefense, private_part
from .random_erasing import RandomErasing
from .recipe import Recipe
from .record_dp import RecordDP
from .registry import REGISTRY, get, names
from .session import Session, Setup
from .skip_removal import SkipRemoval
from .training import Trained, check, train
from .transfer import Transfer
from .trapdoor import Trapdoor

__all__ = [
    "MID",
    "REGISTRY",
    "Augmentation",
    "Batch",
    "BiDO",
    "BiDOCOCO",
    "BiDOHSIC",
    "BucketDP",
    "CALoR",
    "ClassDP",
    "CompressedHead",
    "Defense",
    "LabelSmoothing",
    "NoDefense",
    "Objective",
    "PrivateDefense",
    "RandomErasing",
    "Recipe",
    "RecordDP",
    "Session",
    "Setup",
    "SkipRemoval",
    "SubclassDP",
    "Trained",
    "Transfer",
    "Trapdoor",
    "UserDP",
    "VariationalBottleneck",
    "check",
    "compose",
    "get",
    "names",
    "private_part",
    "train",
]
