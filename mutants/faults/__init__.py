"""The faults, one module per group of files. A new fault is an entry in one of them."""

from ..fault import Fault
from . import (
    account,
    accountants,
    attacks,
    audits,
    carried,
    draws,
    features,
    gradients,
    isolation,
    limits,
    loops,
    privacy,
    samplers,
    sharded,
    sharing,
    training,
)

FAULTS: tuple[Fault, ...] = (
    *accountants.FAULTS,
    *privacy.FAULTS,
    *account.FAULTS,
    *gradients.FAULTS,
    *training.FAULTS,
    *isolation.FAULTS,
    *sharing.FAULTS,
    *carried.FAULTS,
    *draws.FAULTS,
    *audits.FAULTS,
    *features.FAULTS,
    *limits.FAULTS,
    *samplers.FAULTS,
    *loops.FAULTS,
    *attacks.FAULTS,
    *sharded.FAULTS,
)
"""All faults, in the order of the table."""
