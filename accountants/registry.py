"""The accountants by name, and the questions they share: is the request sound, is the answer trivial."""

import math
import warnings
from dataclasses import dataclass
from typing import Protocol

from accountants import checks, lemma3, theorem1, tight
from accountants.guarantee import Adjacency, Bound, Guarantee
from accountants.mechanism import Totals
from accountants.plugins import Registry


class BoundFunction(Protocol):
    """What an accountant computes: a pure function of a run with at least one step and noise in every step."""

    def __call__(self, totals: Totals, *, delta: float, adjacency: Adjacency) -> Bound:
        """Return epsilon at this delta, in (0, 1), for this adjacency."""
        ...


@dataclass(frozen=True, kw_only=True)
class Accountant:
    """A way to compute epsilon, and whether what it computes is an upper bound.

    Attributes:
        name: as a caller names it.
        description: one line, for listings.
        bound: the computation.
        is_guarantee: whether the mechanism is (epsilon, delta)-DP at the epsilon it returns.
        caveats: said with every answer, whatever the run.
    """

    name: str
    description: str
    bound: BoundFunction
    is_guarantee: bool
    caveats: tuple[str, ...] = ()


ACCOUNTANTS: Registry[Accountant] = Registry(
    "dpmi.accountants",
    "accountant",
    Accountant,
    (
        Accountant(
            name="tight",
            description="privacy loss distributions, composed numerically: the number to state",
            bound=tight.bound,
            is_guarantee=True,
        ),
        Accountant(
            name="lemma3",
            description="moments of the class-DP paper, computed exactly: looser, for any delta",
            bound=lemma3.bound,
            is_guarantee=True,
        ),
        Accountant(
            name="theorem1",
            description="closed form of the class-DP paper, for comparison: no guarantee",
            bound=theorem1.bound,
            is_guarantee=False,
            caveats=(theorem1.NOT_AN_UPPER_BOUND,),
        ),
    ),
)
"""A new accountant is one file with a `bound` and one entry here, or an entry point of another package."""


def account(
    totals: Totals,
    *,
    delta: float,
    unit: str,
    adjacency: Adjacency,
    accountant: str,
    buckets: int | None,
) -> Guarantee:
    """Check the request, then query the accountant named; arguments as in `accountants.epsilon`."""
    delta = checks.delta(delta)
    unit = checks.unit(unit)
    adjacency = checks.adjacency(adjacency)
    chosen = ACCOUNTANTS.get(accountant)

    caveats = chosen.caveats
    if buckets is not None and delta >= 1 / checks.integer("buckets", buckets, minimum=1):
        large = (
            f"delta = {delta:g} is not below 1/K with K = {buckets} buckets: "
            f"publishing one {unit} in the clear, chosen at random, would be within such a delta"
        )
        warnings.warn(large, UserWarning, stacklevel=3)
        caveats += (large,)

    if not totals:
        bound = Bound(0.0)
    elif any(mechanism.noise_multiplier == 0 for mechanism in totals):
        bound = Bound(math.inf)
    else:
        bound = chosen.bound(totals, delta=delta, adjacency=adjacency)
    return Guarantee(
        epsilon=bound.epsilon,
        delta=delta,
        unit=unit,
        adjacency=adjacency,
        accountant=accountant,
        is_guarantee=chosen.is_guarantee,
        steps=sum(totals.values()),
        conditions=bound.conditions,
        caveats=caveats + bound.caveats,
    )
