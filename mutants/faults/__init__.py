"""The faults, one module for each group of files under attack. A new fault is an entry in one of them."""

from ..fault import Fault
from . import account, accountants, gradients, privacy, training

FAULTS: tuple[Fault, ...] = (
    *accountants.FAULTS,
    *privacy.FAULTS,
    *account.FAULTS,
    *gradients.FAULTS,
    *training.FAULTS,
)
"""All, in the order of the table."""
