"""The accountants by name, and what they share: the check of a request, and the trivial results.

>>> {accountant.name: accountant.is_guarantee for accountant in ACCOUNTANTS.builtins}
{'tight': True, 'lemma3': True, 'theorem1': False}
>>> ACCOUNTANTS.get("tight").description
'privacy loss distributions, composed numerically: the number to report'
"""

import math
import warnings
from dataclasses import dataclass
from typing import Protocol

from accountants import checks, lemma3, theorem1, tight
from accountants.guarantee import Adjacency, Bound, Guarantee
from accountants.mechanism import (
    SAMPLERS,
    BucketMechanism,
    Mechanism,
    Totals,
    check_adjacency,
    for_units,
    noiseless,
    steps_of,
)
from accountants.plugins import Registry


class BoundFunction(Protocol):
    """The computation of an accountant: a pure function of a run with at least one step and noise in every step."""

    def __call__(self, totals: Totals, *, delta: float, adjacency: Adjacency) -> Bound:
        """Return epsilon at this delta, in (0, 1), for this adjacency."""
        ...


@dataclass(frozen=True, kw_only=True)
class Accountant:
    """A way to compute epsilon, and whether the result is an upper bound.

    Attributes:
        name: the name in `accountant=`.
        description: one line, for listings.
        bound: the computation.
        is_guarantee: whether the mechanism is (epsilon, delta)-DP at the epsilon that it returns.
        caveats: caveats of every result, for any run.
        several_buckets: whether `bound` knows units that own several of the sampled buckets, which come as
            `accountants.mechanism.SeveralBuckets`.
        mechanisms: the types of mechanisms that `bound` knows; a run with any other is refused.
    """

    name: str
    description: str
    bound: BoundFunction
    is_guarantee: bool
    caveats: tuple[str, ...] = ()
    several_buckets: bool = False
    mechanisms: tuple[type[Mechanism], ...] = (BucketMechanism,)


ACCOUNTANTS: Registry[Accountant] = Registry(
    "dpmi.accountants",
    "accountant",
    Accountant,
    (
        Accountant(
            name="tight",
            description="privacy loss distributions, composed numerically: the number to report",
            bound=tight.bound,
            is_guarantee=True,
            several_buckets=True,
            mechanisms=tuple(SAMPLERS.values()),
        ),
        Accountant(
            name="lemma3",
            description="moments of the class-DP paper, computed exactly: looser, works for any delta",
            bound=lemma3.bound,
            is_guarantee=True,
        ),
        Accountant(
            name="theorem1",
            description="closed form of the class-DP paper, for comparison only: not a guarantee",
            bound=theorem1.bound,
            is_guarantee=False,
            caveats=(theorem1.NOT_AN_UPPER_BOUND,),
        ),
    ),
)
"""The accountants by name: the built-in accountants and those of installed packages."""
"""A new accountant is one file with a `bound` and one entry here, or an entry point in another package."""


def account(
    totals: Totals,
    *,
    delta: float,
    unit: str,
    adjacency: Adjacency,
    accountant: str,
    buckets: int | None,
    buckets_per_unit: int = 1,
) -> Guarantee:
    """Check the request, then query the accountant; arguments as in `accountants.epsilon`."""
    delta = checks.delta(delta)
    unit = checks.unit(unit)
    adjacency = checks.adjacency(adjacency)
    chosen = ACCOUNTANTS.get(accountant)

    for mechanism in totals:
        if type(mechanism) not in chosen.mechanisms:
            raise ValueError(
                f"accountant {accountant!r} does not cover {mechanism!r}: use accountant='tight'"
            )
    check_adjacency(totals, adjacency)

    caveats = chosen.caveats
    totals = for_units(totals, buckets_per_unit)
    if buckets_per_unit > 1:
        if not chosen.several_buckets:
            raise ValueError(
                f"accountant {accountant!r} covers units that own one bucket, and buckets_per_unit is "
                f"{buckets_per_unit}; use accountant='tight'"
            )
        caveats += (
            f"for every {unit} that owns at most {buckets_per_unit} of the separately sampled buckets",
        )
    if buckets is not None and buckets_per_unit > checks.integer("buckets", buckets, minimum=1):
        raise ValueError(
            f"buckets_per_unit must be at most {buckets}, the number of buckets, got {buckets_per_unit}"
        )
    if buckets is not None and delta >= 1 / buckets:
        large = (
            f"delta = {delta:g} is not below 1/K with K = {buckets} buckets: "
            f"a mechanism that publishes one random {unit} would satisfy this delta; choose delta below 1/K"
        )
        warnings.warn(large, UserWarning, stacklevel=3)
        caveats += (large,)

    if not totals:
        bound = Bound(0.0)
    elif noiseless(totals):
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
        steps=sum(count * steps_of(mechanism) for mechanism, count in totals.items()),
        conditions=bound.conditions,
        caveats=caveats + bound.caveats,
    )
