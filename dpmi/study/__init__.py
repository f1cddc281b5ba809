"""A study: a grid of trials, run in parallel, resumed where it stopped, gathered into one table."""

from .results import Results
from .run import Failure, gather, pending, run
from .spec import Job, SpecError, StudySpec, Trial, parse, read
from .store import Store, StoreError

__all__ = [
    "Failure",
    "Job",
    "Results",
    "SpecError",
    "Store",
    "StoreError",
    "StudySpec",
    "Trial",
    "gather",
    "parse",
    "pending",
    "read",
    "run",
]
