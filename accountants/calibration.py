"""Solve for the noise, the number of steps or the sampling rate that a target (epsilon, delta) allows.

Only the tight accountant is asked: a closed form that is not an upper bound must not choose anybody's noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from accountants import checks, pld
from accountants.guarantee import Adjacency, Guarantee
from accountants.ledger import Ledger
from accountants.mechanism import BucketMechanism

_Cost = Callable[[float], float]

LEAST_NOISE, MOST_NOISE = 0.01, 1e6
"""Where a noise multiplier is looked for. At the smaller end one step has an epsilon in the thousands."""

LOWEST_RATE = 1e-9
"""A sampling rate is looked for from here up to 1."""

MOST_STEPS = 10**6
"""Steps are looked for from 1 up to here."""

SHORT_OF_TARGET = 2e-3
"""By how much of the target the answer's epsilon may stay below it."""

_COARSE = 4
"""Times the accountant's interval: four times as fast, and a few tenths of a per cent off."""

_MOST_CORRECTIONS = 8
"""Of the coarse answer, by the exact epsilon; one or two are enough."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A run that meets a target.

    Attributes:
        mechanism: one step, with the sampling rate and the noise multiplier.
        steps: how many.
        solved_for: "noise_multiplier", "steps" or "sampling_rate".
        guarantee: the epsilon of this run, computed anew; never above the target.
    """

    mechanism: BucketMechanism
    steps: int
    solved_for: str
    guarantee: Guarantee

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "solved_for": self.solved_for,
            "sampling_rate": self.mechanism.sampling_rate,
            "noise_multiplier": self.mechanism.noise_multiplier,
            "steps": self.steps,
            "guarantee": self.guarantee.to_dict(),
        }


def calibrate(
    *,
    target_epsilon: float,
    delta: float,
    unit: str,
    sampling_rate: float | None = None,
    noise_multiplier: float | None = None,
    steps: int | None = None,
    adjacency: Adjacency = "replace",
    buckets: int | None = None,
) -> Calibration:
    """Solve for the one of noise_multiplier, steps and sampling_rate that is left out.

    The least noise, the most steps or the largest sampling rate whose epsilon does not exceed the target.

    Args:
        target_epsilon: above 0.
        delta: in (0, 1), at least 1e-10.
        unit: what one bucket is: "class", "subclass", a column name.
        sampling_rate: probability in (0, 1] of drawing one bucket.
        noise_multiplier: std / max_grad_norm, >= 0.001.
        steps: at least 1.
        adjacency: "replace" one bucket, or "add_remove" one bucket.
        buckets: K, the number of buckets, if known; only to warn about a delta that is too large for it.

    Raises:
        TypeError, ValueError: an argument is wrong, not exactly one is left out, or nothing meets the target;
            the message names the nearest epsilon that can be had.

    >>> found = calibrate(target_epsilon=4.0, delta=1e-3, unit="subclass", sampling_rate=0.2, steps=150)
    >>> found.solved_for, round(found.mechanism.noise_multiplier, 2), found.guarantee.epsilon <= 4
    ('noise_multiplier', 4.02, True)
    """
    target_epsilon = checks.real("target_epsilon", target_epsilon)
    if target_epsilon <= 0:
        raise ValueError(f"target_epsilon must be above 0, got {target_epsilon}: 0 allows no step at all")
    given = {"noise_multiplier": noise_multiplier, "steps": steps, "sampling_rate": sampling_rate}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        raise ValueError(
            "exactly one of noise_multiplier, steps and sampling_rate must be left out, to be solved for; got "
            + ", ".join(f"{name} = {value}" for name, value in given.items())
        )
    (solved_for,) = missing
    delta, unit, adjacency = checks.delta(delta), checks.unit(unit), checks.adjacency(adjacency)
    if noise_multiplier is not None and checks.noise_multiplier(noise_multiplier) < pld.SMALLEST_NOISE:
        raise ValueError(
            f"noise_multiplier must be at least {pld.SMALLEST_NOISE:g} to meet a target, got {noise_multiplier}"
        )

    def run(value: float) -> Ledger:
        chosen: dict[str, Any] = given | {solved_for: value}
        mechanism = BucketMechanism(
            sampling_rate=chosen["sampling_rate"], noise_multiplier=chosen["noise_multiplier"]
        )
        return Ledger().record(mechanism, checks.integer("steps", chosen["steps"], minimum=1))

    @cache
    def exact(value: float) -> float:
        return run(value).guarantee(delta=delta, unit=unit, adjacency=adjacency).epsilon

    @cache
    def coarse(value: float) -> float:
        totals = run(value).totals
        pld.check(totals, delta=delta)
        interval = _COARSE * pld.fine_interval(totals, adjacency)
        composed = pld.compose(totals, adjacency=adjacency, interval=interval)
        return math.inf if composed is None else composed.epsilon(delta)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a sampling rate of 1 on the way is no mistake
        run(1)  # the arguments given are in range
        start = _first_guess(solved_for, given, target_epsilon, delta)
        if solved_for == "noise_multiplier":
            value: float = _least_noise(coarse, exact, target_epsilon, start)
        elif solved_for == "sampling_rate":
            value = _largest_rate(coarse, exact, target_epsilon, start)
        else:
            value = _most_steps(coarse, exact, target_epsilon, start, delta)
    ledger = run(value)
    ((mechanism, count),) = ledger.totals.items()
    guarantee = ledger.guarantee(delta=delta, unit=unit, adjacency=adjacency, buckets=buckets)
    return Calibration(mechanism=mechanism, steps=count, solved_for=solved_for, guarantee=guarantee)


def _first_guess(solved_for: str, given: dict[str, Any], target: float, delta: float) -> float:
    """Return Theorem 1 of the class-DP paper, solved: epsilon = 4 q sqrt(T ln(1/delta)) / sigma.

    It is no bound, and near enough to begin with. For the noise it is the inverse that is looked for.
    """
    q, sigma, steps = given["sampling_rate"], given["noise_multiplier"], given["steps"]
    guess: float
    if solved_for == "noise_multiplier":
        guess = target / (4 * q * math.sqrt(-steps * math.log(delta)))
    elif solved_for == "sampling_rate":
        guess = target * sigma / (4 * math.sqrt(-steps * math.log(delta)))
    else:
        guess = -((target * sigma / (4 * q)) ** 2) / math.log(delta)
    return guess


def _least_noise(coarse: _Cost, exact: _Cost, target: float, start: float) -> float:
    """Return the least noise multiplier; its inverse is what epsilon rises with."""
    inverse = _largest(
        lambda x: coarse(1 / x), lambda x: exact(1 / x), target, 1 / MOST_NOISE, 1 / LEAST_NOISE, start=start
    )
    if inverse is None:
        raise ValueError(
            f"target_epsilon = {target:g} cannot be met by a noise_multiplier up to {MOST_NOISE:g}, which still "
            f"costs {exact(MOST_NOISE):.3g}: raise target_epsilon or delta, or take fewer steps"
        )
    if inverse >= 1 / LEAST_NOISE:
        raise ValueError(
            f"target_epsilon = {target:g} is met by a noise_multiplier of {LEAST_NOISE:g} already, which promises "
            f"nothing (epsilon = {exact(LEAST_NOISE):.3g}): lower target_epsilon, or choose the noise yourself"
        )
    return 1 / inverse


def _largest_rate(coarse: _Cost, exact: _Cost, target: float, start: float) -> float:
    rate = _largest(coarse, exact, target, LOWEST_RATE, 1.0, start=start)
    if rate is None:
        raise ValueError(
            f"target_epsilon = {target:g} cannot be met by a sampling_rate down to {LOWEST_RATE:g}, which still "
            f"costs {exact(LOWEST_RATE):.3g}: raise noise_multiplier, target_epsilon or delta, or take fewer steps"
        )
    return rate


def _most_steps(coarse: _Cost, exact: _Cost, target: float, start: float, delta: float) -> int:
    most = min(MOST_STEPS, math.floor(delta / (2 * pld.ROUNDING_PER_STEP)))
    if exact(1) > target:
        raise ValueError(
            f"target_epsilon = {target:g} cannot be met: one step alone costs {exact(1):.4g}, the nearest target that "
            "can. Or raise noise_multiplier, or lower sampling_rate"
        )
    found = _largest(
        lambda x: coarse(round(x)), lambda x: exact(round(x)), target, 1.0, float(most), start=start
    )
    steps = 1 if found is None else round(found)
    # The search ends a little short of the target. Where that is a few steps only, take them too.
    while steps < min(most, 1 / SHORT_OF_TARGET) and exact(steps + 1) <= target:
        steps += 1
    if steps >= most:
        raise ValueError(
            f"target_epsilon = {target:g} is not used up by {most} steps, the most that can be accounted for at "
            f"delta = {delta:g}: choose the steps yourself"
        )
    return steps


def _largest(
    coarse: _Cost, exact: _Cost, target: float, low: float, high: float, *, start: float
) -> float | None:
    """Return the largest value in [low, high] whose epsilon is below the target by at most SHORT_OF_TARGET.

    None where even the lowest costs more. Epsilon rises with the value. The coarse epsilon is solved first, and
    the answer corrected by the exact one.
    """
    aim = target * (1 - SHORT_OF_TARGET / 2)
    lower, upper = _bracket(coarse, aim, low, high, start=start)
    if lower == upper:
        return None if exact(lower) > target else lower
    value = _root(coarse, aim, lower, upper)
    # By which power of the value epsilon rises here.
    power = max(0.1, math.log((coarse(value) + 1e-300) / (coarse(value / 1.02) + 1e-300)) / math.log(1.02))
    for _ in range(_MOST_CORRECTIONS):
        epsilon = exact(value)
        if target * (1 - SHORT_OF_TARGET) <= epsilon <= target:
            return value
        value = min(max(value * (aim / max(epsilon, aim / 2)) ** (1 / power), lower), upper)
    while exact(value) > target and value > lower:
        value = max(lower, value * (1 - SHORT_OF_TARGET))
    return value


def _bracket(cost: _Cost, target: float, low: float, high: float, *, start: float) -> tuple[float, float]:
    """Return two values, the target between their costs; one and the same where it is beyond that end."""
    lower = upper = min(max(start, low), high)
    ratio = 4.0
    if cost(upper) <= target:
        while cost(upper) <= target:
            if upper == high:
                return high, high
            lower, upper, ratio = upper, min(upper * ratio, high), ratio**2
    else:
        while cost(lower) > target:
            if lower == low:
                return low, low
            lower, upper, ratio = max(lower / ratio, low), lower, ratio**2
    return lower, upper


def _root(cost: _Cost, target: float, lower: float, upper: float) -> float:
    """Return where the cost reaches the target, to a part of SHORT_OF_TARGET."""
    # Slow to import, and not needed to account.
    from scipy.optimize import brentq  # noqa: PLC0415

    def excess(log_value: float) -> float:
        # Nearly straight in logarithms; the thousandth keeps a cost of zero finite.
        return math.log((min(cost(math.exp(log_value)), 1e300) + 1e-3 * target) / (1.001 * target))

    return math.exp(float(brentq(excess, math.log(lower), math.log(upper), xtol=SHORT_OF_TARGET / 8)))
