"""Solve for the noise, the number of steps or the sampling rate that a target (epsilon, delta) allows.

Only the tight accountant is used. A closed form that is not an upper bound must not determine the noise.
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
from accountants.mechanism import BucketMechanism, for_units, poisson

_Cost = Callable[[float], float]

LEAST_NOISE, MOST_NOISE = 0.01, 1e6
"""Search range of the noise multiplier. At the smaller end, one step has an epsilon in the thousands."""

LOWEST_RATE = 1e-9
"""The search range of the sampling rate starts here and ends at 1."""

MOST_STEPS = 10**6
"""The search range of the number of steps starts at 1 and ends here."""

SHORT_OF_TARGET = 2e-3
"""Largest accepted gap between the target and the result's epsilon, as a fraction of the target."""

_COARSE = 4
"""Coarse interval, in units of the accountant's interval: four times as fast, an error of a few tenths of a
percent."""

_MOST_CORRECTIONS = 8
"""Most corrections of the coarse solution by the exact epsilon; one or two are usually enough."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A run that meets a target.

    Attributes:
        mechanism: one step, with the sampling rate and the noise multiplier.
        steps: number of steps.
        solved_for: "noise_multiplier", "steps" or "sampling_rate".
        guarantee: the (epsilon, delta) of this run at full precision; epsilon never exceeds the target.

    >>> found = calibrate(target_epsilon=4.0, delta=1e-3, unit="class", noise_multiplier=4.0, steps=150)
    >>> found.solved_for, round(found.mechanism.sampling_rate, 3), found.steps
    ('sampling_rate', 0.199, 150)
    >>> 3.99 < found.guarantee.epsilon <= 4
    True
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
    buckets_per_unit: int = 1,
) -> Calibration:
    """Solve for the one of noise_multiplier, steps and sampling_rate that is not given.

    The solution is the least noise, the most steps or the largest sampling rate whose epsilon does not exceed the
    target.

    Args:
        target_epsilon: above 0.
        delta: in (0, 1), at least 1e-10.
        unit: what is protected as a whole, as in :func:`accountants.epsilon`.
        sampling_rate: probability in (0, 1] of drawing one bucket.
        noise_multiplier: std / max_grad_norm, >= 0.001.
        steps: at least 1.
        adjacency: "replace" one unit, or "add_remove" one unit.
        buckets: K, the number of buckets, if known; used only to warn about a delta of 1/K or more.
        buckets_per_unit: k, the most separately sampled buckets that one unit owns, at least 1 and at most K.

    Raises:
        TypeError, ValueError: an argument is wrong, not exactly one is left out, or no value meets the target;
            the message names the nearest epsilon that can be reached.

    >>> found = calibrate(target_epsilon=4.0, delta=1e-3, unit="subclass", sampling_rate=0.2, steps=150)
    >>> found.solved_for, round(found.mechanism.noise_multiplier, 2), found.guarantee.epsilon <= 4
    ('noise_multiplier', 4.02, True)
    """
    target_epsilon = checks.real("target_epsilon", target_epsilon)
    if target_epsilon <= 0:
        raise ValueError(f"target_epsilon must be above 0, got {target_epsilon}: epsilon 0 allows no step")
    given = {"noise_multiplier": noise_multiplier, "steps": steps, "sampling_rate": sampling_rate}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        raise ValueError(
            "leave out exactly one of noise_multiplier, steps and sampling_rate, the one to solve for; got "
            + ", ".join(f"{name} = {value}" for name, value in given.items())
        )
    (solved_for,) = missing
    delta, unit, adjacency = checks.delta(delta), checks.unit(unit), checks.adjacency(adjacency)
    buckets_per_unit = checks.integer("buckets_per_unit", buckets_per_unit, minimum=1)
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
        found = run(value).guarantee(
            delta=delta, unit=unit, adjacency=adjacency, buckets_per_unit=buckets_per_unit
        )
        return found.epsilon

    @cache
    def coarse(value: float) -> float:
        totals = for_units(run(value).totals, buckets_per_unit)
        pld.check(totals, delta=delta)
        interval = _COARSE * pld.fine_interval(totals, adjacency)
        composed = pld.compose(totals, adjacency=adjacency, interval=interval)
        return math.inf if composed is None else composed.epsilon(delta)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the search may try a sampling rate of 1
        run(1)  # checks the ranges of the given arguments
        start = _first_guess(solved_for, given, target_epsilon / buckets_per_unit, delta)
        if solved_for == "noise_multiplier":
            value: float = _least_noise(coarse, exact, target_epsilon, start)
        elif solved_for == "sampling_rate":
            value = _largest_rate(coarse, exact, target_epsilon, start)
        else:
            value = _most_steps(coarse, exact, target_epsilon, start, delta)
    ledger = run(value)
    ((charged, count),) = ledger.totals.items()
    mechanism = poisson(charged, "calibrate")
    guarantee = ledger.guarantee(
        delta=delta, unit=unit, adjacency=adjacency, buckets=buckets, buckets_per_unit=buckets_per_unit
    )
    return Calibration(mechanism=mechanism, steps=count, solved_for=solved_for, guarantee=guarantee)


def _first_guess(solved_for: str, given: dict[str, Any], target: float, delta: float) -> float:
    """Return the start of the search: Theorem 1 of the class-DP paper, solved for the missing value.

    The theorem is epsilon = 4 q sqrt(T ln(1/delta)) / sigma. It is not a bound, but close enough as a start. For the
    noise, the result is 1 / sigma.
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
    """Return the least noise multiplier. The search is over its inverse, because epsilon rises with it."""
    inverse = _largest(
        lambda x: coarse(1 / x), lambda x: exact(1 / x), target, 1 / MOST_NOISE, 1 / LEAST_NOISE, start=start
    )
    if inverse is None:
        raise ValueError(
            f"target_epsilon = {target:g} cannot be met with a noise_multiplier up to {MOST_NOISE:g}, which still "
            f"costs epsilon {exact(MOST_NOISE):.3g}: raise target_epsilon or delta, or take fewer steps"
        )
    if inverse >= 1 / LEAST_NOISE:
        raise ValueError(
            f"target_epsilon = {target:g} is already met at the smallest noise_multiplier tried, {LEAST_NOISE:g}, "
            f"whose epsilon ({exact(LEAST_NOISE):.3g}) gives no meaningful protection: lower target_epsilon, or set "
            "noise_multiplier yourself"
        )
    return 1 / inverse


def _largest_rate(coarse: _Cost, exact: _Cost, target: float, start: float) -> float:
    rate = _largest(coarse, exact, target, LOWEST_RATE, 1.0, start=start)
    if rate is None:
        raise ValueError(
            f"target_epsilon = {target:g} cannot be met with a sampling_rate down to {LOWEST_RATE:g}, which still "
            f"costs epsilon {exact(LOWEST_RATE):.3g}: raise noise_multiplier, target_epsilon or delta, or take fewer "
            "steps"
        )
    return rate


def _most_steps(coarse: _Cost, exact: _Cost, target: float, start: float, delta: float) -> int:
    most = min(MOST_STEPS, math.floor(delta / (2 * pld.ROUNDING_PER_STEP)))
    if exact(1) > target:
        raise ValueError(
            f"target_epsilon = {target:g} cannot be met: a single step already costs epsilon {exact(1):.4g}. Raise "
            "target_epsilon to at least that, raise noise_multiplier, or lower sampling_rate"
        )
    found = _largest(
        lambda x: coarse(round(x)), lambda x: exact(round(x)), target, 1.0, float(most), start=start
    )
    steps = 1 if found is None else round(found)
    # The search stops slightly below the target. Where only a few steps are missing, add them.
    while steps < min(most, 1 / SHORT_OF_TARGET) and exact(steps + 1) <= target:
        steps += 1
    if steps >= most:
        raise ValueError(
            f"even {most} steps, the most supported at delta = {delta:g}, cost less than target_epsilon = {target:g}: "
            "set steps yourself"
        )
    return steps


def _largest(
    coarse: _Cost, exact: _Cost, target: float, low: float, high: float, *, start: float
) -> float | None:
    """Return the largest value in [low, high] whose epsilon is below the target by at most SHORT_OF_TARGET.

    None if even the lowest value costs more. Epsilon rises with the value, for units of several buckets too: a smaller
    sampling rate is a larger one whose draws are dropped at random, and contributions of length 0 cost no more. The
    search solves for the coarse epsilon, then corrects the solution with the exact one.
    """
    aim = target * (1 - SHORT_OF_TARGET / 2)
    lower, upper = _bracket(coarse, aim, low, high, start=start)
    if lower == upper:
        return None if exact(lower) > target else lower
    value = _root(coarse, aim, lower, upper)
    # Local exponent p of epsilon ~ value^p.
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
    """Return two values whose costs enclose the target; the same end twice if the target is beyond that end."""
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
    """Return the value whose cost is the target, to within a fraction of SHORT_OF_TARGET."""
    # Imported here: scipy.optimize is slow to import, and accounting does not need it.
    from scipy.optimize import brentq  # noqa: PLC0415

    def excess(log_value: float) -> float:
        # Nearly linear in logarithms; the offset of a thousandth keeps the logarithm of a zero cost finite.
        return math.log((min(cost(math.exp(log_value)), 1e300) + 1e-3 * target) / (1.001 * target))

    return math.exp(float(brentq(excess, math.log(lower), math.log(upper), xtol=SHORT_OF_TARGET / 8)))
