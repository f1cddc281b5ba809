"""Differential privacy for whole buckets of records: classes, subclasses, users, or any other unit.

A *bucket* is a set of records that is protected as a whole; every record is in exactly one bucket of a partition. The
*unit* names what one bucket is: "class", "subclass", "user"; where records have several owners, a unit is one owner of
a few buckets. Under *replace-one* adjacency (``replace``), neighbouring datasets differ in the content of one unit.
Under *add/remove* adjacency (``add_remove``), one of the two has one unit more.

A *logical step* draws buckets, sums their clipped gradients with noise, updates the model once, and is charged once to
the ledger. It processes its records in one or more *physical batches*, whose size only affects memory and speed.

Citations such as [Z20] are resolved in docs/references.md.
"""

from .account import Account, combine
from .averaging import WeightAverage
from .batch import PhysicalBatch
from .clipping import AdaptiveClipping, GroupClipping
from .engine import PrivacyEngine
from .finding import Check, Estimate, Finding
from .grad_sample import BucketGradSampleModule
from .loader import BucketDataLoader
from .noise import NoiseMode
from .opacus_history import read_opacus_history
from .opacus_plugin import BucketPLDAccountant, Lemma3Accountant
from .optimizer import BucketOptimizer, NonFiniteGradientError
from .partition import Partition, Provenance
from .plan import Plan
from .samplers import (
    BallsInBinsSampling,
    FixedNumberSampling,
    PoissonSampling,
    Sampling,
    TruncatedPoissonSampling,
)
from .sampling import BucketSampler
from .statement import Statement

__all__ = [
    "Account",
    "AdaptiveClipping",
    "BallsInBinsSampling",
    "BucketDataLoader",
    "BucketGradSampleModule",
    "BucketOptimizer",
    "BucketPLDAccountant",
    "BucketSampler",
    "Check",
    "Estimate",
    "Finding",
    "FixedNumberSampling",
    "GroupClipping",
    "Lemma3Accountant",
    "NoiseMode",
    "NonFiniteGradientError",
    "Partition",
    "PhysicalBatch",
    "Plan",
    "PoissonSampling",
    "PrivacyEngine",
    "Provenance",
    "Sampling",
    "Statement",
    "TruncatedPoissonSampling",
    "WeightAverage",
    "combine",
    "read_opacus_history",
]
