"""Privacy accounting: epsilon of a training run under bucket-level differential privacy.

A *bucket* is a set of records that is protected as a whole. The *unit* names what one bucket is: "class",
"subclass", "user". Under *replace-one* adjacency (`replace`), neighbouring datasets differ in the content of one
bucket. Under *add/remove* adjacency (`add_remove`), one of the two has one bucket more.

One step draws each bucket with probability `sampling_rate`, clips its gradient to `max_grad_norm`, and adds Gaussian
noise of standard deviation `noise_multiplier * max_grad_norm` to the sum.

The epsilon of 200 such steps:

>>> from accountants import BucketMechanism, Ledger, calibrate, epsilon, epsilon_curve, reconstruction_bound
>>> answer = epsilon(sampling_rate=0.2, noise_multiplier=1.6, steps=200, delta=1e-3, unit="subclass")
>>> print(answer)  # doctest: +NORMALIZE_WHITESPACE
subclass-level (epsilon = 15.924, delta = 0.001) differential privacy, one subclass replaced,
after 200 steps (accountant: tight).

The same run under add/remove adjacency:

>>> step = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
>>> run = Ledger().record(step, steps=200)
>>> round(run.guarantee(delta=1e-3, unit="subclass", adjacency="add_remove").epsilon, 2)
7.45

A ledger is immutable: `record` returns a new one. Equal consecutive steps are stored as a count.

>>> longer = run.record(step, steps=50).record(BucketMechanism(sampling_rate=0.2, noise_multiplier=3.0))
>>> [steps for _, steps in longer.runs], longer.steps, run.steps
([250, 1], 251, 200)

`theorem1` is the closed form of the class-DP paper, for comparison only. It reports which of its conditions hold:

>>> paper = run.guarantee(delta=1e-3, unit="subclass", accountant="theorem1")
>>> round(paper.epsilon, 1), paper.is_guarantee, [condition.holds for condition in paper.conditions]
(18.6, False, [False, True, False])

The least noise for a target epsilon, the epsilon after given numbers of steps, and a bound on reconstruction:

>>> found = calibrate(target_epsilon=4.0, delta=1e-3, unit="subclass", sampling_rate=0.2, steps=200)
>>> round(found.mechanism.noise_multiplier, 1)
4.6
>>> curve = epsilon_curve([50, 100, 200], sampling_rate=0.2, noise_multiplier=4.65, delta=1e-3, unit="subclass")
>>> bool(3.9 < curve.epsilon[-1] < 4.1)
True
>>> reconstruction_bound(run, [0.01]).round(2)  # a success probability of 1 % without the bucket, at most 33 % with it
array([0.33])

Two rules for runs that were not planned as one: `Tries`, the best of a random number of runs, and `PrivacyFilter`, for
steps that depend on what was released before.

`explain` compares all accountants on one run and says which results are upper bounds. `PrivacyProfile` gives delta
at any epsilon and the trade-off function. `accountants.planner` computes the noise of a target before training.

Sources: Zhang, Ma, Xiao, Lou, Xiong, "Broadening Differential Privacy for Deep Learning Against Model
Inversion Attacks", 2020 (accountants `lemma3` and `theorem1`); Lebeda, Regehr, Kamath, Steinke, "Avoiding
Pitfalls for Privacy Accounting of Subsampled Mechanisms under Composition", 2025 (the pair of distributions that
`tight` composes under replacement).
"""

from accountants.calibration import Calibration, calibrate
from accountants.curve import EpsilonCurve, epsilon_curve
from accountants.explanation import Explanation, explain, explain_ledger
from accountants.filters import PrivacyFilter
from accountants.guarantee import ADJACENCIES, Adjacency, Bound, Condition, Guarantee, rounded_up
from accountants.least_noise import least_noise
from accountants.ledger import Ledger, epsilon
from accountants.mechanism import BallsInBins, BucketMechanism, FixedNumber, TruncatedPoisson
from accountants.profile import PrivacyProfile, reconstruction_bound
from accountants.recommender import Recommendation, recommend
from accountants.registry import ACCOUNTANTS, Accountant
from accountants.selection import Tries
from accountants.units import UnitRow, unit_table

__all__ = [
    "ACCOUNTANTS",
    "ADJACENCIES",
    "Accountant",
    "Adjacency",
    "BallsInBins",
    "Bound",
    "BucketMechanism",
    "Calibration",
    "Condition",
    "EpsilonCurve",
    "Explanation",
    "FixedNumber",
    "Guarantee",
    "Ledger",
    "PrivacyFilter",
    "PrivacyProfile",
    "Recommendation",
    "Tries",
    "TruncatedPoisson",
    "UnitRow",
    "calibrate",
    "epsilon",
    "epsilon_curve",
    "explain",
    "explain_ledger",
    "least_noise",
    "recommend",
    "reconstruction_bound",
    "rounded_up",
    "unit_table",
]
