"""Privacy loss distributions of a run, discretised and composed by dp-accounting.

Under `replace`, one step is the symmetric pair (1-q) N(0, s^2) + q N(-1, s^2) against (1-q) N(0, s^2) + q N(+1, s^2)
(Lebeda, Regehr, Kamath, Steinke 2025, Prop. 13). Under `add_remove`, it is the mixture against N(0, s^2); each
direction is composed separately and the larger delta is taken (Zhu, Dong, Wang 2022, Thm 11). dp-accounting supports
both. noise_multiplier is std / max_grad_norm in both cases; dp-accounting applies the factor 2 of a replacement. Other
mechanisms are known by the privacy profiles of :mod:`accountants.pairs`.

dp-accounting moves privacy losses to multiples of an interval such that every delta is an upper bound ("connect
the dots"); a finer interval gives a smaller bound. This module chooses the interval. Moving a loss to the ends of its
cell raises the variance of one step's loss by at most interval^2 / 4, and that of T steps by the same fraction. So a
good interval is proportional to the standard deviation of ONE step's loss, for any T.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from accountants import pairs, pmfs
from accountants.guarantee import Adjacency
from accountants.mechanism import BucketMechanism, Mechanism, Totals

SMALLEST_DELTA = 1e-10
"""Smallest supported delta. A smaller one would be dominated by the tails that the numerical composition truncates."""

SMALLEST_NOISE = 1e-3
"""Smallest supported noise multiplier. Below it dp-accounting overflows: one step has privacy losses in the
millions."""

LARGEST_NOISE, SMALLEST_RATE = 1e6, 1e-10
"""A larger noise multiplier and a smaller sampling rate are replaced by these values, which gives an upper bound.
Privacy losses are of the order of rate / noise, and a thousandth of this quotient is below float64's resolution."""

ROUNDING_PER_STEP = 1e-16
"""Part of delta that is reserved per step for floating-point error. Composing T steps is one Fourier transform to the
power T, which was observed to move delta by up to 4e-17 T in either direction."""

RESOLUTION = 0.1
"""Largest interval in units of the standard deviation of one step's loss. Epsilon is then within 0.3 % of its limit
(benchmark `accounting`), and the error falls with the square of the interval."""

COMFORTABLE_POINTS = 4e4
"""Number of privacy losses of a whole run that takes some hundredths of a second. A short run gets a finer interval
than `RESOLUTION`, up to this number."""

_MOST_POINTS = 2.5e5
"""Largest number of privacy losses of one step; it takes a second."""

_MOST_EXCESS = 0.1
"""Largest excess over 1 of the sum of a run's probabilities. dp-accounting rounds the probabilities of very fine cells
up. The result stays a bound until the sum is so large that the Fourier transform's rounding error hides the tails."""

LARGEST_EXPONENT = 700.0
"""float64 holds e^700 and overflows at e^710."""

_SPLITS = 8193
"""Number of ways in which the epsilon of two changes is divided among them."""

_TAIL = 10.0
"""Standard deviations of the noise on either side of the means; the mass outside is below e^-50."""


@dataclass(frozen=True)
class LossDistribution:
    """The privacy loss of all steps of a run, at one interval.

    Attributes:
        distribution: dp-accounting's PrivacyLossDistribution.
        steps: number of steps composed.
        interval: distance of neighbouring privacy losses.
    """

    distribution: Any
    steps: int
    interval: float

    @property
    def excess(self) -> float:
        """Excess over 1 of the sum of the probabilities."""
        return max(0.0, float(self.distribution.get_delta_for_epsilon(-math.inf)) - 1)

    def epsilon(self, delta: float) -> float:
        """Return the smallest epsilon >= 0 at which delta is met; infinity if there is none."""
        usable = delta - ROUNDING_PER_STEP * self.steps
        if usable <= 0:
            return math.inf
        # dp-accounting searches downwards from large losses; for a delta close to 1 it would continue below zero and
        # overflow.
        if self.distribution.get_delta_for_epsilon(0.0) <= usable:
            return 0.0
        with np.errstate(over="ignore"):
            found = float(self.distribution.get_epsilon_for_delta(usable))
        if found < math.inf:
            return found
        # From epsilon 709 to 745, e^-epsilon is a subnormal number; dp-accounting divides by it and gets infinity.
        # There, the tail of the privacy loss bounds delta, and epsilon is too large by a few units at most.
        return max(pmfs.quantile(pmf, usable) for pmf in pmfs.both(self.distribution))

    def epsilon_of_two_changes(self, delta: float) -> float:
        """Return an epsilon of removing one bucket and adding another; infinity if none is found.

        With epsilon = a + b, the delta of both is at most delta_removal(a) + e^a delta_addition(b). The run must be
        composed under `add_remove`.
        """
        largest = self.epsilon(max(SMALLEST_DELTA, 2 * ROUNDING_PER_STEP * self.steps))
        if not largest < LARGEST_EXPONENT:
            return math.inf
        each = np.linspace(0.0, largest, _SPLITS)
        removal, addition = (self._at(pmf, each) for pmf in pmfs.both(self.distribution))
        left = (delta - removal) * np.exp(-each)
        # The first epsilon of an addition whose delta is not above what is left.
        place = np.searchsorted(-addition, -left, side="left")
        possible = (left > 0) & (place < len(each))
        totals = each[possible] + each[place[possible]]
        return float(totals.min()) if len(totals) else math.inf

    def delta(self, epsilons: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return delta at each epsilon >= 0, in either direction."""
        return self._at(self.distribution, epsilons)

    def delta_of_removal(self, epsilons: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return delta at each real epsilon, for bucket present against bucket absent.

        The run must be composed under `add_remove`.
        """
        # dp-accounting stores both directions, but its public function returns the larger delta only.
        removal, _ = pmfs.both(self.distribution)
        return self._at(removal, epsilons)

    def _at(self, distribution: Any, epsilons: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = np.empty(len(epsilons))
        # dp-accounting computes a sorted list in one pass, but multiplies by e^epsilon, which has to be finite.
        together = np.abs(epsilons) <= LARGEST_EXPONENT
        order = np.argsort(epsilons[together])
        answers = distribution.get_delta_for_epsilon(epsilons[together][order])
        found[np.flatnonzero(together)[order]] = answers
        for place in np.flatnonzero(~together):
            found[place] = distribution.get_delta_for_epsilon(float(epsilons[place]))
        return np.clip(found + ROUNDING_PER_STEP * self.steps, 0.0, 1.0)


def check(totals: Totals, *, delta: float) -> None:
    """Raise an error if dp-accounting cannot compute the run at this delta.

    Raises:
        ValueError: delta < 1e-10, a noise multiplier in (0, 1e-3), or more steps than float64 can compose at
            this delta; the message says what works instead.
    """
    # The other accountant with a guarantee covers Poisson sampling only.
    poisson = all(type(mechanism) is BucketMechanism for mechanism in totals)
    raise_it = "raise delta, or use accountant='lemma3'" if poisson else "raise delta"
    if delta < SMALLEST_DELTA:
        raise ValueError(
            f"delta must be at least {SMALLEST_DELTA:g} for the tight accountant, got {delta:g}: {raise_it}"
        )
    noise = min(mechanism.noise_multiplier for mechanism in totals)
    if noise < SMALLEST_NOISE:
        raise ValueError(
            f"noise_multiplier must be at least {SMALLEST_NOISE:g} for the tight accountant, got {noise:g}: "
            + ("raise it, use accountant='lemma3', " if poisson else "raise it, ")
            + "or set it to 0 for training without privacy"
        )
    steps = sum(totals.values())
    if delta < 2 * ROUNDING_PER_STEP * steps:
        raise ValueError(
            f"delta must be at least {2 * ROUNDING_PER_STEP * steps:g} for {steps} steps, "
            f"got {delta:g}: below it the result of the tight accountant would be floating-point error; {raise_it}"
        )


def fine_interval(totals: Totals, adjacency: Adjacency, *, points: float = COMFORTABLE_POINTS) -> float:
    """Return the interval to compute at: by `RESOLUTION`, finer where that is cheap, coarser where float64 requires it.

    Intervals are powers of two, so that the points of a coarse one are a subset of those of a fine one.

    Args:
        totals: the steps of a run, at least one.
        adjacency: as in `accountants.epsilon`.
        points: number of privacy losses of the whole run up to which an interval is cheap.
    """
    spread, width = _scale(totals, adjacency)
    wanted = min(RESOLUTION * spread, _run_width(spread, width, sum(totals.values())) / points)
    return max(2.0 ** math.floor(math.log2(wanted)), _finest(totals, width))


def intervals(totals: Totals, adjacency: Adjacency) -> Iterator[float]:
    """Yield four times the fine interval, the fine interval, then a quarter each time while it can be computed."""
    _, width = _scale(totals, adjacency)
    interval, finest = 4 * fine_interval(totals, adjacency), _finest(totals, width)
    while interval >= finest:
        yield interval
        interval /= 4


def points(totals: Totals, adjacency: Adjacency, interval: float) -> float:
    """Return the number of privacy losses of the whole run at an interval."""
    spread, width = _scale(totals, adjacency)
    return _run_width(spread, width, sum(totals.values())) / interval


def _run_width(spread: float, width: float, steps: int) -> float:
    return width + 2 * _TAIL * spread * math.sqrt(steps)


def _finest(totals: Totals, width: float) -> float:
    """Return the finest interval: one step has at most `_MOST_POINTS`, and rounding causes at most `_MOST_EXCESS`."""
    # Per 1 / interval; measured under add_remove, where it is larger.
    excess_of_a_cell = 0.25 * ROUNDING_PER_STEP
    accurate = math.sqrt(sum(totals.values()) * width * excess_of_a_cell / _MOST_EXCESS)
    return 2.0 ** math.ceil(math.log2(max(width / _MOST_POINTS, accurate)))


def compose(totals: Totals, *, adjacency: Adjacency, interval: float) -> LossDistribution | None:
    """Return the composition of a run's steps, at least one; None if the interval is too fine for float64."""
    total = None
    for mechanism, steps in totals.items():
        one = one_step(mechanism, adjacency, interval)
        # If the probabilities of one step sum to 1 + x, those of the run sum to (1 + x)^steps.
        if steps * one.excess > _MOST_EXCESS:
            return None
        run = one.distribution.self_compose(steps)
        total = run if total is None else total.compose(run)
    return LossDistribution(total, sum(totals.values()), interval)


@lru_cache(maxsize=16)  # a calibration, a curve and a table of both adjacencies need the same step repeatedly
def one_step(
    mechanism: Mechanism, adjacency: Adjacency, interval: float, log_tail: float = -50.0
) -> LossDistribution:
    """Return a single step, or a pass. At most a mass of e^log_tail is counted as an infinite loss."""
    # Imported here because importing dp-accounting takes longer than most computations.
    from dp_accounting import NeighboringRelation  # noqa: PLC0415
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism  # noqa: PLC0415

    mechanism = pairs.plain(mechanism, adjacency)
    if type(mechanism) is not BucketMechanism:
        return LossDistribution(_of_pairs(mechanism, adjacency, interval), 1, interval)
    relation = {
        "replace": NeighboringRelation.REPLACE_ONE,
        "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    }[adjacency]
    q, sigma = _computable(mechanism)
    distribution = from_gaussian_mechanism(
        standard_deviation=sigma,
        sampling_prob=q,
        value_discretization_interval=interval,
        log_mass_truncation_bound=log_tail,
        neighboring_relation=relation,
    )
    return LossDistribution(distribution, 1, interval)


def _of_pairs(mechanism: Mechanism, adjacency: Adjacency, interval: float) -> Any:
    """Return dp-accounting's PrivacyLossDistribution of the pairs that dominate a charge."""
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap  # noqa: PLC0415
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution  # noqa: PLC0415

    found = []
    for pair in _pairs(mechanism, adjacency):
        smallest, largest = pair.losses
        low, high = math.floor(smallest / interval), math.ceil(largest / interval)
        deltas = pair.delta(np.arange(low, high + 1) * np.float64(interval))
        found.append(create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, deltas))
    return PrivacyLossDistribution(*found)


def _pairs(mechanism: Mechanism, adjacency: Adjacency) -> tuple[pairs.StepPair, ...]:
    return pairs.of(mechanism, adjacency, most_noise=LARGEST_NOISE, least_rate=SMALLEST_RATE)


def _computable(mechanism: BucketMechanism) -> tuple[float, float]:
    """Return sampling rate and noise multiplier, clamped to the computable range; clamping only raises the cost."""
    return max(mechanism.sampling_rate, SMALLEST_RATE), min(mechanism.noise_multiplier, LARGEST_NOISE)


def _scale(totals: Totals, adjacency: Adjacency) -> tuple[float, float]:
    """Return the root mean square, over steps, of the losses' standard deviations, and the largest width."""
    losses = [(*_losses(mechanism, adjacency), steps) for mechanism, steps in totals.items()]
    variance = sum(steps * spread * spread for spread, _, steps in losses) / sum(totals.values())
    return math.sqrt(variance), max(width for _, width, _ in losses)


@lru_cache(maxsize=64)  # needed at every interval that is tried
def _losses(mechanism: Mechanism, adjacency: Adjacency) -> tuple[float, float]:
    """Return the standard deviation and the width of one step's privacy loss.

    Under `add_remove` each is the larger one of the two directions, which is the one that costs more.
    """
    mechanism = pairs.plain(mechanism, adjacency)
    if type(mechanism) is not BucketMechanism:
        shapes = [pair.shape for pair in _pairs(mechanism, adjacency)]
        return max(spread for spread, _ in shapes), max(width for _, width in shapes)
    q, sigma = _computable(mechanism)
    z = np.linspace(-_TAIL - 1 / sigma, _TAIL + 1 / sigma, 4001)  # in standard deviations of the noise
    absent = -z * z / 2

    def present(shift: float) -> npt.NDArray[np.float64]:
        drawn = -((z - shift / sigma) ** 2) / 2
        return drawn if q == 1 else np.logaddexp(math.log1p(-q) + absent, math.log(q) + drawn)

    densities = {
        "replace": [(present(-1.0), present(1.0))],
        "add_remove": [(present(1.0), absent), (absent, present(1.0))],
    }[adjacency]
    spreads, widths = [], []
    for upper, lower in densities:
        loss, weight = upper - lower, np.exp(upper)
        weight /= weight.sum()
        spreads.append(math.sqrt(float(np.dot(weight, (loss - np.dot(weight, loss)) ** 2))))
        widths.append(float(np.ptp(loss)))
    return max(spreads), max(widths)
