"""The privacy loss of one step for a unit that owns several separately sampled buckets.

A unit owns up to k buckets, each drawn with probability q, so j of them are drawn with the probability w_j of a
binomial distribution. Without the unit, or with another one, a step releases a sum that differs by the contributions of
the j drawn buckets, at most j long. The pair of distributions that dominates the step is, in one dimension and units of
max_grad_norm,

    replace:  sum_j w_j N(-j, s^2)  against  sum_j w_j N(+j, s^2)
    remove:   sum_j w_j N(-j, s^2)  against  N(0, s^2)
    add:      N(0, s^2)             against  sum_j w_j N(+j, s^2)

docs/decisions/several_buckets.md proves it; for k = 1 these are the pairs of :mod:`accountants.pld`. Removal and
addition are the mixtures of Gaussians of Choquette-Choo, Ganesh, Steinke, Thakurta 2024, Cor. 4.7, which dp-accounting
has, too; it has no replacement, and searches every threshold by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp, ndtr
from scipy.stats import binom

from accountants.guarantee import Adjacency

Numbers = npt.NDArray[np.float64]

_SMALLEST_LOG_WEIGHT = -60.0
"""Large numbers of drawn buckets that are less likely than e^-60 are left out, which `Pair.neglected` pays for."""

_SMALLEST_FLOAT = -690.0
"""Small ones are kept as long as float64 holds their weight: far from the other mixture's means, the rarest of its
components is the nearest, and decides the privacy loss."""

_TAIL = 10.0
"""Standard deviations beyond the outermost means; the mass outside is below e^-50."""

_TABLE = 4096
"""Points of the table from which a threshold is interpolated before Newton's method."""

_AT_ONCE = 2**20
"""Most densities that are computed together."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two mixtures of Gaussians whose privacy loss falls as x grows.

    Attributes:
        weights: of the components, (J,), the same in both mixtures.
        upper: means of the first mixture, (J,), at most 0.
        lower: means of the second one, (J,), at least 0.
        sigma: the standard deviation of every component.
        neglected: probability of the components that were left out; it counts as an infinite loss.
    """

    weights: Numbers
    upper: Numbers
    lower: Numbers
    sigma: float
    neglected: float

    @classmethod
    def of(cls, *, sampling_rate: float, sigma: float, owned: int, direction: str) -> Pair:
        """Return the pair of one step.

        Args:
            sampling_rate: q.
            sigma: the noise multiplier.
            owned: k, the number of buckets of the unit.
            direction: "replace", "remove" or "add".
        """
        drawn, weights, neglected = _drawn(owned, sampling_rate)
        nothing = np.zeros_like(drawn)
        return cls(
            weights=weights,
            upper=nothing if direction == "add" else -drawn,
            lower=nothing if direction == "remove" else drawn,
            sigma=sigma,
            neglected=neglected,
        )

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest x that count; outside, the first mixture has a mass below e^-50."""
        return float(self.upper.min()) - _TAIL * self.sigma, float(self.upper.max()) + _TAIL * self.sigma

    @property
    def losses(self) -> tuple[float, float]:
        """The smallest and the largest privacy loss that count."""
        largest, smallest = self.loss(np.array(self.ends))
        return float(smallest), float(largest)

    @property
    def shape(self) -> tuple[float, float]:
        """Standard deviation and width of the privacy loss."""
        x = np.linspace(*self.ends, _TABLE)
        loss = self.loss(x)
        log = self._log(x, self.upper)
        weight = np.exp(log - log.max())
        weight /= weight.sum()
        mean = float(weight @ loss)
        return math.sqrt(float(weight @ (loss - mean) ** 2)), float(np.ptp(loss))

    def loss(self, x: Numbers) -> Numbers:
        """Return the privacy loss, the logarithm of the densities' quotient, (n,)."""
        return self._difference(self._log, x)

    def delta(self, epsilons: Numbers) -> Numbers:
        """Return the hockey-stick divergence at each epsilon, ascending, (n,).

        It is the first mixture's mass below the threshold, where the loss equals epsilon, minus e^epsilon times that of
        the second. Near the threshold it depends on its square only, so a threshold to 1e-8 is exact in float64.
        """
        thresholds = self._thresholds(epsilons)
        found = np.concatenate(
            [
                self._mass(x, self.upper) - np.exp(np.minimum(epsilon + self._log_mass(x, self.lower), 0.0))
                for x, epsilon in zip(self._parts(thresholds), self._parts(epsilons), strict=True)
            ]
        )
        found = np.where(np.isposinf(thresholds), -np.expm1(np.minimum(epsilons, 0.0)), found)
        # Rounding may make a later delta larger than an earlier one, which no divergence has.
        falling: Numbers = np.maximum.accumulate(np.clip(found + self.neglected, 0.0, 1.0)[::-1])[::-1]
        return falling

    def _thresholds(self, epsilons: Numbers) -> Numbers:
        """Return x at which the loss is epsilon; minus or plus infinity for an epsilon that no x has."""
        low, high = self.ends
        table = np.linspace(low - self.sigma, high + self.sigma, _TABLE)
        losses = self.loss(table)
        falling = np.minimum.accumulate(losses)  # a flat end is flat up to rounding
        x: Numbers = np.interp(-epsilons, -falling, table)
        cell = table[1] - table[0]
        left, right = x - 2 * cell, x + 2 * cell
        for _ in range(4):
            slope = self._difference(self._score, x)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = (self.loss(x) - epsilons) / slope
            x = np.clip(x - np.where(np.isfinite(step), step, 0.0), left, right)
        x[epsilons > losses[0]] = -np.inf
        x[epsilons < losses[-1]] = np.inf
        return x

    def _difference(self, of: Callable[[Numbers, Numbers], Numbers], x: Numbers) -> Numbers:
        return np.concatenate([of(part, self.upper) - of(part, self.lower) for part in self._parts(x)])

    def _parts(self, x: Numbers) -> Iterator[Numbers]:
        for start in range(0, len(x), at_once := max(1, _AT_ONCE // len(self.weights))):
            yield x[start : start + at_once]

    def _log(self, x: Numbers, means: Numbers) -> Numbers:
        """Return the logarithm of a mixture's density, without the constant that both mixtures share."""
        z = (x[:, np.newaxis] - means) / self.sigma
        found: Numbers = logsumexp(-z * z / 2, axis=1, b=self.weights)
        return found

    def _score(self, x: Numbers, means: Numbers) -> Numbers:
        """Return the derivative of `_log`."""
        z = (x[:, np.newaxis] - means) / self.sigma
        log = -z * z / 2 + np.log(self.weights)
        shares = np.exp(log - log.max(axis=1, keepdims=True))
        found: Numbers = -(shares * z).sum(axis=1) / shares.sum(axis=1) / self.sigma
        return found

    def _mass(self, x: Numbers, means: Numbers) -> Numbers:
        found: Numbers = ndtr((x[:, np.newaxis] - means) / self.sigma) @ self.weights
        return found

    def _log_mass(self, x: Numbers, means: Numbers) -> Numbers:
        found: Numbers = logsumexp(log_ndtr((x[:, np.newaxis] - means) / self.sigma), axis=1, b=self.weights)
        return found


def pairs(*, sampling_rate: float, sigma: float, owned: int, adjacency: Adjacency) -> tuple[Pair, ...]:
    """Return the pairs whose larger delta is that of the adjacency."""
    directions = {"replace": ("replace",), "add_remove": ("remove", "add")}[adjacency]
    return tuple(
        Pair.of(sampling_rate=sampling_rate, sigma=sigma, owned=owned, direction=direction)
        for direction in directions
    )


def _drawn(owned: int, sampling_rate: float) -> tuple[Numbers, Numbers, float]:
    """Return numbers of drawn buckets, their probabilities, and the probability of the larger numbers left out.

    Smaller numbers that float64 cannot weigh count as the smallest one that it can, which only raises the cost.
    """
    drawn = np.arange(owned + 1)
    log_weights = binom.logpmf(drawn, owned, sampling_rate)
    first = int(np.argmax(log_weights > _SMALLEST_FLOAT))
    last = int(np.flatnonzero(log_weights > _SMALLEST_LOG_WEIGHT)[-1])
    weights = np.exp(log_weights[first : last + 1])
    weights[0] = binom.cdf(first, owned, sampling_rate)
    neglected = float(binom.sf(last, owned, sampling_rate))
    weights /= math.fsum(weights)
    return drawn[first : last + 1].astype(np.float64), weights, neglected
