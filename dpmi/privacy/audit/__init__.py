"""Audits of private runs: measured lower bounds on epsilon, and checks of noise, draws and contributions.

A statement of epsilon is a claim about code. An audit tests the claim on the run itself. It finds faults; it proves no
promise: a lower bound says only that epsilon is not smaller, and a check that passes only that this fault is not there.
docs/audit.md says what each estimator assumes.
"""

from .audit import Audit, most_canaries
from .black_box import PlantedCanaries, worst_case_start
from .many_runs import ManyRuns, many_runs
from .one_run import Scores, clopper_pearson, counted, counted_fdp, game, gaussian, order_statistics
from .own_training import audited, auditing
from .recorder import Recorder

__all__ = [
    "Audit",
    "ManyRuns",
    "PlantedCanaries",
    "Recorder",
    "Scores",
    "audited",
    "auditing",
    "clopper_pearson",
    "counted",
    "counted_fdp",
    "game",
    "gaussian",
    "many_runs",
    "most_canaries",
    "order_statistics",
    "worst_case_start",
]
