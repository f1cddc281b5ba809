"""A privacy filter: it stops a run before a target epsilon is exceeded, however its steps were chosen on the way.

The epsilon of a ledger supposes that the steps were planned before the first one. A run whose noise, sampling rate or
length depend on what was released so far needs a filter. This one adds up Renyi divergences of one order, which is
chosen before the first step.

>>> from accountants import BucketMechanism, Ledger
>>> planned = BucketMechanism(sampling_rate=0.2, noise_multiplier=4)
>>> limit = PrivacyFilter.planned(planned, target_epsilon=8, delta=1e-5)
>>> limit.steps_left(Ledger(), planned)
247
>>> half = Ledger().record(planned, 120)
>>> limit.steps_left(half, BucketMechanism(sampling_rate=0.2, noise_multiplier=8))
507
>>> print(limit.guarantee(half, delta=1e-5, unit="user"))  # doctest: +NORMALIZE_WHITESPACE
user-level (epsilon = 8.000, delta = 1e-05) differential privacy, one user replaced,
after 120 steps (accountant: filter).

Source: Feldman, Zrnic, "Individual Privacy Accounting via a Renyi Filter", 2021, Theorem 4.3.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from accountants import checks, renyi, sealed_json
from accountants.guarantee import Adjacency, Guarantee
from accountants.ledger import Ledger
from accountants.mechanism import Mechanism, for_units

_ROUNDING = 1e-9
"""Part of the budget that is left for the rounding errors of adding up."""


@dataclass(frozen=True, kw_only=True)
class PrivacyFilter:
    """A limit on the sum of the Renyi divergences of all steps, at one order.

    It has no state: what was spent is in the ledger. :meth:`planned` chooses the order.

    Attributes:
        target_epsilon: above 0.
        delta: in (0, 1).
        order: above 1, fixed before the first step.
        adjacency: "replace" or "add_remove". A limit under replacement also holds under add/remove, because a
            contribution of 0 is one of those that may replace another; the reverse is not true.
        buckets_per_unit: the most separately sampled buckets that one unit owns.

    Raises:
        TypeError, ValueError: an argument is out of range, or the order is too small for this target and delta.
    """

    target_epsilon: float
    delta: float
    order: float
    adjacency: Adjacency = "replace"
    buckets_per_unit: int = 1

    def __post_init__(self) -> None:
        target = checks.real("target_epsilon", self.target_epsilon)
        if target <= 0:
            raise ValueError(f"target_epsilon must be above 0, got {target}")
        object.__setattr__(self, "target_epsilon", target)
        object.__setattr__(self, "delta", checks.delta(self.delta))
        object.__setattr__(self, "order", checks.real("order", self.order))
        checks.adjacency(self.adjacency)
        checks.integer("buckets_per_unit", self.buckets_per_unit, minimum=1)
        if self.order <= 1:
            raise ValueError(f"order must be above 1, got {self.order}")
        if self.budget <= 0:
            raise ValueError(
                f"order is {self.order:g}, at which epsilon exceeds target_epsilon = {target:g} before the first step; "
                "use PrivacyFilter.planned, which chooses an order"
            )

    @classmethod
    def planned(
        cls,
        mechanism: Mechanism,
        *,
        target_epsilon: float,
        delta: float,
        adjacency: Adjacency = "replace",
        buckets_per_unit: int = 1,
    ) -> PrivacyFilter:
        """Return the filter that allows the most steps of this mechanism; others may be taken, too.

        Raises:
            TypeError, ValueError: an argument is out of range, or not one step would be allowed.
        """
        target, delta = checks.real("target_epsilon", target_epsilon), checks.delta(delta)
        ledger = Ledger().record(mechanism)
        each = renyi.divergences(for_units(ledger.totals, buckets_per_unit), checks.adjacency(adjacency))
        steps = renyi.budget(target, renyi.ORDERS, delta) / each
        best = int(np.argmax(steps))
        if not steps[best] > 1:
            raise ValueError(
                f"target_epsilon = {target:g} at delta = {delta:g} does not allow a single step of {mechanism}; raise "
                "the noise multiplier or the target"
            )
        return cls(
            target_epsilon=target,
            delta=delta,
            order=float(renyi.ORDERS[best]),
            adjacency=adjacency,
            buckets_per_unit=buckets_per_unit,
        )

    def __str__(self) -> str:
        return (
            f"a filter stops before epsilon = {self.target_epsilon:g} at delta = {self.delta:g} "
            f"({self.adjacency}, Renyi order {self.order:.4g}); the steps may have been chosen by what was released"
        )

    @property
    def budget(self) -> float:
        """The largest sum of divergences."""
        return float(renyi.budget(self.target_epsilon, self.order, self.delta))

    def allows(self, ledger: Ledger, mechanism: Mechanism, steps: int = 1) -> bool:
        """Return whether the target still holds if these steps are taken after those of the ledger."""
        return self._spent(ledger.record(mechanism, steps)) <= self.budget * (1 - _ROUNDING)

    def steps_left(self, ledger: Ledger, mechanism: Mechanism) -> int:
        """Return how many more steps of a mechanism are allowed."""
        each = self._spent(Ledger().record(mechanism))
        if math.isinf(each):
            return 0
        left = max(0, math.floor((self.budget * (1 - _ROUNDING) - self._spent(ledger)) / each))
        return left if self.allows(ledger, mechanism, left) else left - 1

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
        """Return the (epsilon, delta) of a run that this filter limited, whatever it has taken of its budget.

        It is infinite where the filter promises nothing: under replacement if its adjacency is add/remove.

        Args:
            ledger: the steps.
            delta: in (0, 1); that of the filter gives `target_epsilon`.
            unit, adjacency, buckets, buckets_per_unit: as in `accountants.epsilon`.

        Raises:
            TypeError, ValueError: an argument is out of range, the filter was made for units that own another number of
                buckets, or the ledger exceeds the budget.
        """
        asked = Ledger().guarantee(
            delta=delta, unit=unit, adjacency=adjacency, buckets=buckets, buckets_per_unit=buckets_per_unit
        )
        if buckets_per_unit != self.buckets_per_unit:
            raise ValueError(
                f"buckets_per_unit is {buckets_per_unit}, and the filter was made for {self.buckets_per_unit}; what it "
                "promises to other units is not known"
            )
        if not self._spent(ledger) <= self.budget:
            raise ValueError(
                f"the ledger has {ledger.steps} steps, which exceed the filter's target_epsilon = "
                f"{self.target_epsilon:g}: this filter did not limit that run"
            )
        caveats: tuple[str, ...] = (str(self),)
        if not ledger.steps:
            epsilon = 0.0
        elif (self.adjacency, adjacency) == ("add_remove", "replace"):
            epsilon = math.inf
            caveats += ("the filter limited add_remove only; make it with adjacency='replace' for both",)
        elif asked.delta == self.delta:
            epsilon = self.target_epsilon
        else:
            epsilon = float(renyi.epsilon(self.budget, self.order, asked.delta))
        return dataclasses.replace(
            asked,
            epsilon=epsilon,
            accountant="filter",
            steps=ledger.steps,
            caveats=(*asked.caveats, *caveats),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the limit as JSON values."""
        return {"rule": "filter", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, value: Any) -> PrivacyFilter:
        """Return what `to_dict` returned; raise ValueError for anything else."""
        names = [field.name for field in dataclasses.fields(cls)]
        found = sealed_json.exactly(value, ("rule", *names))
        return cls(**{name: found[name] for name in names})

    def _spent(self, ledger: Ledger) -> float:
        totals = for_units(ledger.totals, self.buckets_per_unit)
        return math.fsum(
            steps * renyi.divergence(mechanism, self.adjacency, self.order)
            for mechanism, steps in totals.items()
        )
