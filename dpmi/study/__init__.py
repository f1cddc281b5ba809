"""A study: a grid of trials, run in parallel, resumed where it stopped, gathered into one table."""

from .bisection import Found, Target
from .jobs import Job, Trial
from .match import Match, match_accuracy, match_epsilon, parse_match
from .results import Results
from .run import Failure, gather, pending, run, train_models
from .spec import SpecError, StudySpec, parse, read
from .store import Store, StoreError

__all__ = [
    "Failure",
    "Found",
    "Job",
    "Match",
    "Results",
    "SpecError",
    "Store",
    "StoreError",
    "StudySpec",
    "Target",
    "Trial",
    "gather",
    "match_accuracy",
    "match_epsilon",
    "parse",
    "parse_match",
    "pending",
    "read",
    "run",
    "train_models",
]
