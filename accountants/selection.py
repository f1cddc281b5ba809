"""The cost of releasing the best of a random number of private runs.

Choosing the best of several runs by looking at all of them costs their sum. If the number of runs is random, is drawn
independently of the data, and only the best run is released, it costs less than three, however many there were:

>>> from accountants import BucketMechanism, Ledger
>>> run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=16), 200)
>>> best = Tries(mean=10).guarantee(run, delta=1e-5, unit="user")
>>> ten = sum([run] * 10, Ledger()).guarantee(delta=1e-5, unit="user")
>>> [round(found.epsilon, 1) for found in (run.guarantee(delta=1e-5, unit="user"), best, ten)]
[1.4, 2.5, 5.0]

Source: Papernot, Steinke, "Hyperparameter Tuning with Renyi Differential Privacy", 2022, Theorems 2 and 6.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from accountants import checks, renyi, sealed_json
from accountants.guarantee import Adjacency, Guarantee
from accountants.ledger import Ledger
from accountants.mechanism import for_units
from accountants.profile import PrivacyProfile

LARGEST_MEAN = 1e6
"""Largest expected number of tries."""


@dataclass(frozen=True, kw_only=True)
class Tries:
    """The distribution of the number of runs among which the best one is chosen.

    Attributes:
        mean: expected number of runs, above 1 and at most `LARGEST_MEAN`.
        shape: of a truncated negative binomial distribution, >= 0: 0 is the logarithmic one, 1 the geometric one, and
            infinity the Poisson distribution without 0. A larger shape keeps the number closer to its mean, and costs
            more where one run costs much.

    Raises:
        TypeError, ValueError: an argument is not a number or out of range.
    """

    mean: float
    shape: float = 0.0

    def __post_init__(self) -> None:
        mean = checks.real("mean", self.mean)
        if not 1 < mean <= LARGEST_MEAN:
            raise ValueError(
                f"mean must be above 1 and at most {LARGEST_MEAN:g}, got {mean:g}: a single run is no selection"
            )
        shape = math.inf if self.shape == math.inf else checks.real("shape", self.shape)
        if shape < 0:
            raise ValueError(
                f"shape must be at least 0, got {shape}: 0 logarithmic, 1 geometric, inf Poisson"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "shape", shape)

    def __str__(self) -> str:
        names = {0.0: "logarithmic", 1.0: "geometric", math.inf: "Poisson without 0"}
        kind = names.get(self.shape, f"truncated negative binomial, shape {self.shape:g}")
        return f"the best of a random number of runs, {self.mean:g} on average ({kind})"

    def draw(self, uniform: float) -> int:
        """Return the number of runs, at least 1, for a number drawn uniformly from [0, 1).

        The draw must stay secret, and must not be repeated.
        """
        number, probability = 1, self._first
        below = probability
        while uniform >= below and probability > 0:
            number += 1
            probability *= self._ratio(number)
            below += probability
        return number

    def guarantee(
        self,
        ledger: Ledger,
        *,
        delta: float,
        unit: str,
        adjacency: Adjacency = "replace",
        buckets: int | None = None,
        buckets_per_unit: int = 1,
    ) -> Guarantee:
        """Return the (epsilon, delta) of releasing the best run, and nothing else of the others.

        Args:
            ledger: the steps of one run; if runs differ, of one that costs at least as much as each of them.
            delta, unit, adjacency, buckets, buckets_per_unit: as in `accountants.epsilon`.

        Raises:
            TypeError, ValueError: as `accountants.epsilon` does.
        """
        # An empty ledger is answered without any accountant: this checks the request, once.
        asked = Ledger().guarantee(
            delta=delta, unit=unit, adjacency=adjacency, buckets=buckets, buckets_per_unit=buckets_per_unit
        )
        totals = for_units(ledger.totals, buckets_per_unit)
        epsilon = 0.0
        if totals:
            each = renyi.divergences(totals, adjacency)
            if math.isinf(self.shape):
                profile = PrivacyProfile(
                    ledger=ledger, unit=unit, adjacency=adjacency, buckets_per_unit=buckets_per_unit
                )
                best = self._of_poisson(each, profile)
            else:
                best = self._of_negative_binomial(each)
            epsilon = float(renyi.epsilon(best, renyi.ORDERS, delta).min())
        return dataclasses.replace(
            asked,
            epsilon=epsilon,
            accountant="selection",
            steps=ledger.steps,
            caveats=(*asked.caveats, f"{self}; the steps are those of one run"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the distribution as JSON values."""
        return {
            "rule": "selection",
            "mean": self.mean,
            "shape": "inf" if math.isinf(self.shape) else self.shape,
        }

    @classmethod
    def from_dict(cls, value: Any) -> Tries:
        """Return what `to_dict` returned; raise ValueError for anything else."""
        found = sealed_json.exactly(value, ("rule", "mean", "shape"))
        return cls(mean=found["mean"], shape=math.inf if found["shape"] == "inf" else found["shape"])

    def _of_negative_binomial(self, each: renyi.Numbers) -> renyi.Numbers:
        """Return the divergence of the best run at each order, from that of one run (Theorem 2)."""
        # A second order, which may be any; its part of the sum does not depend on the first one.
        part = (1 - 1 / renyi.ORDERS) * each - math.log(self._gamma) / renyi.ORDERS
        best: renyi.Numbers = each + (1 + self.shape) * part.min() + math.log(self.mean) / (renyi.ORDERS - 1)
        return best

    def _of_poisson(self, each: renyi.Numbers, profile: PrivacyProfile) -> renyi.Numbers:
        """Return the same for the Poisson distribution (Theorem 6).

        Without 0, the generating function's derivative is larger by the constant by which the mean is, so that the last
        term of the theorem has the mean of this distribution, and the others the parameter of the Poisson one.
        """
        delta = profile.delta(np.log1p(1 / (renyi.ORDERS - 1)))
        return each + self._gamma * delta + math.log(self.mean) / (renyi.ORDERS - 1)

    @cached_property
    def _gamma(self) -> float:
        """The distribution's parameter: gamma in (0, 1), or the mean of the Poisson distribution with 0."""
        return _parameter(self.mean, self.shape)

    @property
    def _first(self) -> float:
        """Probability of one run."""
        if math.isinf(self.shape):
            return self._gamma / math.expm1(self._gamma)
        if self.shape == 0:
            return (1 - self._gamma) / -math.log(self._gamma)
        return (1 - self._gamma) * self.shape / math.expm1(-self.shape * math.log(self._gamma))

    def _ratio(self, number: int) -> float:
        """Return the probability of so many runs, at least 2, divided by that of one fewer."""
        if math.isinf(self.shape):
            return self._gamma / number
        return (1 - self._gamma) * (number - 1 + self.shape) / number


@lru_cache(maxsize=16)
def _parameter(mean: float, shape: float) -> float:
    from scipy.optimize import brentq  # noqa: PLC0415 (slow to import)

    if math.isinf(shape):
        return float(brentq(lambda rate: rate / -math.expm1(-rate) - mean, 1e-12, mean, xtol=1e-15))

    def excess(log_gamma: float) -> float:
        gamma = math.exp(log_gamma)
        if shape == 0:
            return (1 / gamma - 1) / -log_gamma - mean
        return shape * (1 - gamma) / (gamma * -math.expm1(shape * log_gamma)) - mean

    # The mean grows without limit as gamma falls, and is 1 at gamma = 1.
    return math.exp(float(brentq(excess, -60.0, -1e-9, xtol=1e-14)))
