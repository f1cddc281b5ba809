"""The least noise of a run with any sampler that meets a target epsilon.

`accountants.calibrate` solves for the steps and the rate of Poisson sampling, too, and is faster, because it searches
at a coarse interval first.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from functools import cache

from accountants import checks
from accountants.calibration import _least_noise
from accountants.guarantee import Adjacency
from accountants.ledger import Ledger
from accountants.mechanism import BallsInBins, Mechanism, steps_of


def least_noise(
    mechanism: Mechanism,
    *,
    target_epsilon: float,
    delta: float,
    unit: str,
    steps: int,
    adjacency: Adjacency = "replace",
) -> Mechanism:
    """Return the mechanism with the least noise whose epsilon after these steps does not exceed the target.

    Args:
        mechanism: how buckets are drawn; its noise multiplier is replaced.
        target_epsilon: above 0.
        delta: in (0, 1), at least 1e-10.
        unit: what one bucket is.
        steps: at least 1; of passes, a multiple of their steps.
        adjacency: "replace" one bucket, or "add_remove" one bucket.

    Raises:
        TypeError, ValueError: an argument is wrong, the adjacency is not defined for the mechanism, or no noise meets
            the target.

    >>> from accountants import FixedNumber
    >>> step = FixedNumber(units=600, drawn=60, noise_multiplier=1)
    >>> found = least_noise(step, target_epsilon=8, delta=1e-5, unit="user", steps=200)
    >>> round(found.noise_multiplier, 1)
    2.4
    """
    target_epsilon = checks.real("target_epsilon", target_epsilon)
    if target_epsilon <= 0:
        raise ValueError(f"target_epsilon must be above 0, got {target_epsilon}: epsilon 0 allows no step")
    times, left = divmod(checks.integer("steps", steps, minimum=1), steps_of(mechanism))
    if left:
        raise ValueError(
            f"steps must be a multiple of {steps_of(mechanism)}, the steps of a pass, got {steps}: passes are charged "
            "whole"
        )

    def with_noise(noise_multiplier: float) -> Mechanism:
        return dataclasses.replace(mechanism, noise_multiplier=noise_multiplier)

    @cache
    def epsilon(noise_multiplier: float) -> float:
        run = Ledger().record(with_noise(noise_multiplier), times)
        return run.guarantee(delta=delta, unit=unit, adjacency=adjacency).epsilon

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a warning belongs to the run, not to the search for it
        epsilon(1.0)  # checks the request
        # Theorem 1 of the class-DP paper, solved for 1 / noise_multiplier; only a start.
        rate = 1 / mechanism.steps_per_pass if isinstance(mechanism, BallsInBins) else mechanism.sampling_rate
        start = target_epsilon / (4 * rate * math.sqrt(-steps * math.log(delta)))
        return with_noise(_least_noise(epsilon, epsilon, target_epsilon, start))
