"""Mutation tests: faults that would break the guarantee are planted one at a time, and a test must find each.

For every fault, ``make mutants`` copies the packages and their tests, changes one line of the copy, and runs the tests
listed with the fault until one fails. If no test fails, the fault survives, and the command fails.

This package is not among the tests, because it is a program that copies the tests.

Example:
    >>> fault = Fault(
    ...     name="epsilon is rounded down",
    ...     path="accountants/guarantee.py",
    ...     old="math.ceil(epsilon * 1000)",
    ...     new="math.floor(epsilon * 1000)",
    ...     tests=("tests/accountants/test_guarantee.py",),
    ... )
    >>> fault.planted("math.ceil(epsilon * 1000) / 1000")
    'math.floor(epsilon * 1000) / 1000'
"""

from .fault import Fault
from .faults import FAULTS
from .runner import Outcome, check_tests, run

__all__ = ["FAULTS", "Fault", "Outcome", "check_tests", "run"]
