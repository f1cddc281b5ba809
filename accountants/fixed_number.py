"""The privacy loss of one step on a fixed number of buckets, drawn without replacement.

With n of K buckets, gamma = n / K and one bucket replaced, the divergence of order e^epsilon >= 1 is at most that of

    (1-gamma) N(0, s^2) + gamma N(2, s^2)   against   N(0, s^2),

which is reached in one step: by a data set whose other contributions all equal that of one of the two buckets [BBG18,
ZDW22, Thm 11 of both]. For e^epsilon < 1 it is that of the two distributions in
the opposite order. Of these two halves the loss distribution of a step is made, so several steps are an upper bound,
above that of any one pair of data sets. docs/decisions/other_samplers.md proves it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

from accountants import mixtures

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subset:
    """The pair that dominates one step, by its divergences; it is its own mirror image.

    Attributes:
        sampling_rate: gamma in (0, 1].
        sigma: the noise multiplier.
    """

    sampling_rate: float
    sigma: float

    @property
    def losses(self) -> tuple[float, float]:
        """The smallest and the largest privacy loss that count."""
        _, largest = self._half.losses
        return -largest, largest

    @property
    def shape(self) -> tuple[float, float]:
        """Standard deviation and width of the privacy loss."""
        spread, _ = self._half.shape
        return spread, 2 * self.losses[1]

    def delta(self, epsilons: Numbers) -> Numbers:
        """Return the hockey-stick divergence at each epsilon, ascending, (n,)."""
        above = self._above(np.abs(epsilons))
        with np.errstate(over="ignore"):
            below = -np.expm1(epsilons) + np.exp(np.minimum(epsilons, 0.0)) * above
        found = np.where(epsilons >= 0, above, below)
        # Rounding may make a later delta larger than an earlier one, which no divergence has.
        falling: Numbers = np.maximum.accumulate(np.clip(found, 0.0, 1.0)[::-1])[::-1]
        return falling

    @property
    def _half(self) -> mixtures.Pair:
        """The pair of the divergences of order 1 and above: means 2 apart are means 1 apart at half the noise."""
        return mixtures.Pair.of(
            sampling_rate=self.sampling_rate, sigma=self.sigma / 2, owned=1, direction="remove"
        )

    def _above(self, epsilons: Numbers) -> Numbers:
        """Return the divergence at epsilons >= 0: gamma times that of N(2, s^2) against N(0, s^2) at a larger one.

        The larger order is 1 + (e^epsilon - 1) / gamma, by which privacy is amplified.
        """
        rate, distance = self.sampling_rate, 2 / self.sigma
        small = np.log1p(np.expm1(np.minimum(epsilons, 1.0)) / rate)
        large = epsilons + np.log1p(-(1 - rate) * np.exp(-epsilons)) - math.log(rate)
        order = np.where(epsilons < 1, small, large)
        upper = ndtr(distance / 2 - order / distance)
        lower = np.exp(np.minimum(order + log_ndtr(-distance / 2 - order / distance), 0.0))
        found: Numbers = rate * (upper - lower)
        return found
