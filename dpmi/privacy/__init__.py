"""Differential privacy for whole buckets of records: classes, subclasses, users, or any other unit."""

from .account import Account, combine
from .batch import PhysicalBatch
from .engine import PrivacyEngine
from .grad_sample import BucketGradSampleModule
from .loader import BucketDataLoader
from .noise import NoiseMode
from .opacus_plugin import BucketPLDAccountant, Lemma3Accountant
from .optimizer import BucketOptimizer, NonFiniteGradientError
from .partition import Partition, Provenance
from .plan import Plan
from .sampling import BucketSampler
from .statement import Statement

__all__ = [
    "Account",
    "BucketDataLoader",
    "BucketGradSampleModule",
    "BucketOptimizer",
    "BucketPLDAccountant",
    "BucketSampler",
    "Lemma3Accountant",
    "NoiseMode",
    "NonFiniteGradientError",
    "Partition",
    "PhysicalBatch",
    "Plan",
    "PrivacyEngine",
    "Provenance",
    "Statement",
    "combine",
]
