"""Epsilon after every step of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accountants import checks, pld
from accountants.guarantee import Adjacency
from accountants.mechanism import BucketMechanism, Totals

STATED_ERROR = 0.01
"""Largest error of epsilon above the exact value, as a fraction of it. It comes from the step counts that are skipped
and from the interval of the privacy losses."""

_POINTS_PER_OCTAVE = 128
"""Step counts composed between one power of two and the next. Epsilon grows at most as fast as the number of
steps, so the value at the next composed count is at most 1/128 larger."""

_POINTS = 1e4
"""Number of privacy losses of the whole run up to which an interval is cheap; a curve needs a thousand
compositions."""

_TAIL = 1e-4
"""Fraction of delta that all steps and compositions together may move to an infinite loss; delta grows by as much."""


@dataclass(frozen=True, kw_only=True)
class EpsilonCurve:
    """Epsilon of a run after each of several numbers of steps; every value is an upper bound.

    Attributes:
        steps: integers (n,), ascending.
        epsilon: (n,), non-decreasing.
        delta: in (0, 1).
        unit: what one bucket is.
        adjacency: "replace" or "add_remove".
        accountant: "tight".

    >>> curve = epsilon_curve([10, 100], sampling_rate=0.1, noise_multiplier=2.0, delta=1e-3, unit="user")
    >>> dict(zip(curve.steps.tolist(), curve.epsilon.round(2).tolist()))
    {10: 0.79, 100: 3.12}
    >>> curve.adjacency, curve.accountant
    ('replace', 'tight')
    """

    steps: npt.NDArray[np.int64]
    epsilon: npt.NDArray[np.float64]
    delta: float
    unit: str
    adjacency: Adjacency
    accountant: str = "tight"


def epsilon_curve(
    steps: Sequence[int] | npt.NDArray[np.int64],
    *,
    sampling_rate: float,
    noise_multiplier: float,
    delta: float,
    unit: str,
    adjacency: Adjacency = "replace",
) -> EpsilonCurve:
    """Return epsilon after each number of steps, in one pass over the run.

    Up to 128 steps, every count is composed. Beyond, 128 counts per octave are composed, each by adding a power of two
    to the previous count; a count in between gets the value of the next composed one. Every value is an upper bound
    within `STATED_ERROR` of the exact one.

    Args:
        steps: numbers of steps >= 0, strictly ascending; `range(1, 100_001)` for every step of a run.
        sampling_rate: probability in (0, 1] of drawing one bucket.
        noise_multiplier: std / max_grad_norm, >= 0.
        delta: in (0, 1), at least 1e-10.
        unit: what one bucket is: "class", "subclass", a column name.
        adjacency: "replace" one bucket, or "add_remove" one bucket.

    Raises:
        TypeError, ValueError: an argument is wrong, or the steps are more than float64 can compose.

    >>> curve = epsilon_curve(range(1, 201), sampling_rate=0.2, noise_multiplier=1.6, delta=1e-3, unit="class")
    >>> curve.epsilon[[0, 99, 199]].round(2)
    array([ 0.67,  9.92, 15.93])
    """
    asked = _whole_numbers(steps)
    delta, unit, adjacency = checks.delta(delta), checks.unit(unit), checks.adjacency(adjacency)
    mechanism = BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    most = int(asked[-1])
    if most == 0:
        found = np.zeros(len(asked))
    elif mechanism.noise_multiplier == 0:
        found = np.where(asked > 0, np.inf, 0.0)
    else:
        counts, epsilons = _composed(mechanism, most, delta=delta, adjacency=adjacency)
        found = epsilons[np.searchsorted(counts, asked)]
    return EpsilonCurve(steps=asked, epsilon=found, delta=delta, unit=unit, adjacency=adjacency)


def _composed(
    mechanism: BucketMechanism, most: int, *, delta: float, adjacency: Adjacency
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the counts that were composed, from 0 to ``most``, and the epsilon of each."""
    totals: Totals = {mechanism: most}
    pld.check(totals, delta=delta)
    # One interval for all counts: RESOLUTION refers to one step, so it does not depend on the count. Twice the interval
    # of the longest run is fine enough here.
    interval = 2 * pld.fine_interval(totals, adjacency, points=_POINTS)
    # Half of the tail budget goes to the steps, half to the compositions. The mass that a power of two has lost is lost
    # again in every run that it is added to; in total that is at most once per step.
    log_tail = max(-50.0, math.log(_TAIL * delta / 2 / most))
    tail = _TAIL * delta / 4 / most
    powers: dict[int, Any] = {1: pld.one_step(mechanism, adjacency, interval, log_tail).distribution}
    counts, epsilons, run = [0], [0.0], None
    while counts[-1] < most:
        stride = 1 << max(0, counts[-1].bit_length() - _POINTS_PER_OCTAVE.bit_length())
        while stride > most - counts[-1]:
            stride //= 2
        if stride not in powers:
            powers[stride] = powers[stride // 2].compose(powers[stride // 2], tail)
        run = powers[1] if run is None else run.compose(powers[stride], tail)
        counts.append(counts[-1] + stride)
        epsilons.append(pld.LossDistribution(run, counts[-1], interval).epsilon(delta))
    return np.array(counts), np.maximum.accumulate(epsilons)


def _whole_numbers(steps: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    numbers = np.asarray(steps)
    if numbers.ndim != 1 or len(numbers) == 0 or not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(
            f"steps must be a list of at least one integer, got shape {numbers.shape} of {numbers.dtype}"
        )
    numbers = numbers.astype(np.int64)
    if numbers[0] < 0 or np.any(np.diff(numbers) <= 0):
        raise ValueError("steps must be at least 0 and strictly ascending, for example range(1, 1001)")
    return numbers
