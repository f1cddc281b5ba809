"""The price of a training run: epsilon for bucket-level differential privacy, and nothing else.

A bucket is the set of records that is one unit of privacy: a class, a subclass, a user. One step draws each
bucket with probability `sampling_rate`, clips its gradient to `max_grad_norm`, and adds Gaussian noise of
standard deviation `noise_multiplier * max_grad_norm` to the sum.

What do 200 such steps cost?

>>> from accountants import BucketMechanism, Ledger, calibrate, epsilon, epsilon_curve, reconstruction_bound
>>> answer = epsilon(sampling_rate=0.2, noise_multiplier=1.6, steps=200, delta=1e-3, unit="subclass")
>>> print(answer)  # doctest: +NORMALIZE_WHITESPACE
subclass-level (epsilon = 15.924, delta = 0.001) differential privacy, one subclass replaced,
after 200 steps (accountant: tight).

The same run when neighbours differ by one subclass being present or absent:

>>> step = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
>>> run = Ledger().record(step, steps=200)
>>> round(run.guarantee(delta=1e-3, unit="subclass", adjacency="add_remove").epsilon, 2)
7.45

A ledger is a value: recording returns a new one, and runs of the same step are kept as a count.

>>> longer = run.record(step, steps=50).record(BucketMechanism(sampling_rate=0.2, noise_multiplier=3.0))
>>> [steps for _, steps in longer.runs], longer.steps, run.steps
([250, 1], 251, 200)

`theorem1` is the closed form of the class-DP paper, for comparison only; it says which conditions hold:

>>> paper = run.guarantee(delta=1e-3, unit="subclass", accountant="theorem1")
>>> round(paper.epsilon, 1), paper.is_guarantee, [condition.holds for condition in paper.conditions]
(18.6, False, [False, True, False])

The least noise for a target, epsilon after every step, and what it means for reconstruction:

>>> found = calibrate(target_epsilon=4.0, delta=1e-3, unit="subclass", sampling_rate=0.2, steps=200)
>>> round(found.mechanism.noise_multiplier, 1)
4.6
>>> curve = epsilon_curve([50, 100, 200], sampling_rate=0.2, noise_multiplier=4.65, delta=1e-3, unit="subclass")
>>> bool(3.9 < curve.epsilon[-1] < 4.1)
True
>>> reconstruction_bound(run, [0.01]).round(2)  # whoever guesses one subclass in a hundred gets one in three
array([0.33])

`explain` puts every accountant beside the others and says which are bounds; `PrivacyProfile` has delta for every
epsilon and the trade-off function; `accountants.planner` says, before anything is trained, what a target takes.

Sources: Zhang, Ma, Xiao, Lou, Xiong, "Broadening Differential Privacy for Deep Learning Against Model
Inversion Attacks", 2020 (accountants `lemma3` and `theorem1`); Lebeda, Regehr, Kamath, Steinke, "Avoiding
Pitfalls for Privacy Accounting of Subsampled Mechanisms under Composition", 2025 (what `tight` composes under
replacement).
"""

from accountants.calibration import Calibration, calibrate
from accountants.curve import EpsilonCurve, epsilon_curve
from accountants.explanation import Explanation, explain
from accountants.guarantee import ADJACENCIES, Adjacency, Bound, Condition, Guarantee, rounded_up
from accountants.ledger import Ledger, epsilon
from accountants.mechanism import BucketMechanism
from accountants.profile import PrivacyProfile, reconstruction_bound
from accountants.registry import ACCOUNTANTS, Accountant

__all__ = [
    "ACCOUNTANTS",
    "ADJACENCIES",
    "Accountant",
    "Adjacency",
    "Bound",
    "BucketMechanism",
    "Calibration",
    "Condition",
    "EpsilonCurve",
    "Explanation",
    "Guarantee",
    "Ledger",
    "PrivacyProfile",
    "calibrate",
    "epsilon",
    "epsilon_curve",
    "explain",
    "reconstruction_bound",
    "rounded_up",
]
