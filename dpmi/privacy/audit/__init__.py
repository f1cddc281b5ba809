"""Audits of private runs: measured lower bounds on epsilon, and checks of noise, draws and contributions.

A statement of epsilon is a claim about code. An audit tests the claim on the run itself. It finds faults; it proves no
promise: a lower bound says only that epsilon is not smaller, and a check that passes only that this fault is not there.
docs/audit.md says what each estimator assumes.
"""

from .audit import Audit
from .one_run import Scores, clopper_pearson, counted, counted_fdp, gaussian, order_statistics
from .recorder import Recorder

__all__ = [
    "Audit",
    "Recorder",
    "Scores",
    "clopper_pearson",
    "counted",
    "counted_fdp",
    "gaussian",
    "order_statistics",
]
