"""A study: a grid of trials that runs in parallel, resumes where it stopped, and ends in one table.

A trial is one model inversion attack (MIA) on one trained model: the attack reconstructs images of every class. In
other work MIA also stands for membership inference attack, which tests whether a record was in the training set; dpmi
never uses it in that sense. *MIA distance* is the distance from a reconstruction to the nearest private image of its
class. *Advantage* is the share of the baseline's distance that the attack saves, where the baseline is the better of
two images that need no model: a blank image and the mean public image.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> text = '''
... name = "tiny"
... seeds = [0]
... data = { name = "digits" }
... model = "softmax"
... training = { steps = 5, learning_rate = 0.1 }
... defenses = [{ name = "class-dp", noise_multiplier = 4.0, sampling_rate = 0.2, max_grad_norm = 1.0 }]
... attacks = [{ name = "miface", iterations = 5 }]
... '''
>>> def summary(results: Results) -> str:
...     (row,) = results.trials.to_dict("records")
...     return f"{row['label']}, {row['attack']}: epsilon {row['epsilon']:.2f}, {len(results.per_class)} classes"
>>> def told(model: Released) -> str:
...     return f"{model.setting}, seed {model.seed}: {model.account.ledger.steps} steps"
>>> spec, here = parse(text), Machines(workers=1)
>>> with TemporaryDirectory() as folder:
...     store = Store.create(Path(folder, "tiny"), text)
...     on = prepare(spec)  # digests of the data; everything is checked before anything is written
...     before = len(pending(spec, store, on))
...     failures = run(spec, store, on=on, machines=here)
...     after, old = len(pending(spec, store, on)), len(unmeasured(spec, store))
...     again = measure(spec, store, machines=here)  # nothing to do: no metric has changed
...     print(summary(gather(spec, store)))
...     print(told(released(spec, store)))
class-dp, noise multiplier 4, miface: epsilon 0.31, 10 classes
class-dp, noise multiplier 4, seed 0: 5 steps
>>> before, failures, after, old, again
(1, [], 0, 0, [])
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
