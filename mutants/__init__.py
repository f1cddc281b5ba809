"""Mutation tests: faults that would break the promise, planted one at a time, and the test that finds each.

``make mutants`` copies the packages and their tests for every fault, changes one line of the copy, and runs the tests
named with the fault until one fails. A fault that no test finds survives, and the command fails.

It stands beside ``benchmarks`` and not among the tests: it is a program, and what it copies are the tests.

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
