"""A study: a grid of trials, run in parallel, resumed where it stopped, gathered into one table."""

from .bisection import AccuracyTarget, MatchedStrength
from .content import Content
from .executors import Machines
from .grid import Job, Trial
from .match import Match, match_accuracy, match_epsilon, parse_match
from .pool import Failure
from .results import Results, gather
from .run import measure, pending, prepare, run, train_models, unmeasured
from .spec import SpecError
from .store import Store, StoreError
from .study import StudySpec, parse, read

__all__ = [
    "AccuracyTarget",
    "Content",
    "Failure",
    "Job",
    "Machines",
    "Match",
    "MatchedStrength",
    "Results",
    "SpecError",
    "Store",
    "StoreError",
    "StudySpec",
    "Trial",
    "gather",
    "match_accuracy",
    "match_epsilon",
    "measure",
    "parse",
    "parse_match",
    "pending",
    "prepare",
    "read",
    "run",
    "train_models",
    "unmeasured",
]
