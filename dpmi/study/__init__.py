"""A study: a grid of trials that runs in parallel, resumes where it stopped, and ends in one table.

A trial is one model inversion attack (MIA) on one trained model: the attack reconstructs images of every class. In
other work MIA also stands for membership inference attack, which tests whether a record was in the training set; dpmi
never uses it in that sense. *MIA distance* is the distance from a reconstruction to the nearest private image of its
class. *Advantage* is the share of the baseline's distance that the attack saves, where the baseline is the better of
two images that need no model: a blank image and the mean public image.
"""

from .bisection import AccuracyTarget, MatchedStrength
from .content import Content
from .executors import Machines
from .grid import Job, Trial
from .match import Match, match_accuracy, match_epsilon, parse_match
from .pool import Failure
from .released import Released, released
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
    "Released",
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
    "released",
    "run",
    "train_models",
    "unmeasured",
]
