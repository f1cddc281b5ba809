"""The accountants by name, and the questions they share: is the request sound, is the answer trivial."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from accountants import checks, lemma3, theorem1, tight
from accountants.bound import Bound
from accountants.guarantee import Adjacency, Guarantee
from accountants.ledger import Ledger
from accountants.mechanism import BucketMechanism


class BoundFunction(Protocol):
    """What an accountant computes: a pure function of a ledger with at least one step and noise in every
    step."""

    def __call__(self, ledger: Ledger, *, delta: float, adjacency: Adjacency) -> Bound:
        """Return epsilon at this delta, in (0, 1), for this adjacency."""
        ...


@dataclass(frozen=True, kw_only=True)
class Accountant:
    """A way to compute epsilon, and whether what it computes is an upper bound.

    Attributes:
        bound: the computation.
        is_guarantee: whether the mechanism is (epsilon, delta)-DP at the epsilon it returns.
        caveats: said with every answer, whatever the ledger.
    """

    bound: BoundFunction
    is_guarantee: bool
    caveats: tuple[str, ...] = ()


ACCOUNTANTS: Mapping[str, Accountant] = {
    "tight": Accountant(bound=tight.bound, is_guarantee=True),
    "lemma3": Accountant(bound=lemma3.bound, is_guarantee=True),
    "theorem1": Accountant(bound=theorem1.bound, is_guarantee=False, caveats=(theorem1.NOT_AN_UPPER_BOUND,)),
}
"""A new accountant is one file with a `bound` and one line here."""


def account(
    ledger: Ledger,
    *,
    delta: float,
    unit: str,
    adjacency: Adjacency,
    accountant: str,
    buckets: int | None,
) -> Guarantee:
    """Check the request, then ask the accountant named; arguments as in `epsilon`."""
    delta = checks.delta(delta)
    unit = checks.unit(unit)
    adjacency = checks.adjacency(adjacency)
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant must be one of {', '.join(ACCOUNTANTS)}, got {accountant!r}")
    chosen = ACCOUNTANTS[accountant]

    caveats = chosen.caveats
    if buckets is not None and delta >= 1 / checks.integer("buckets", buckets, minimum=1):
        large = (
            f"delta = {delta:g} is not below 1/K with K = {buckets} buckets: "
            f"publishing one {unit} in the clear, chosen at random, would be within such a delta"
        )
        warnings.warn(large, UserWarning, stacklevel=3)
        caveats += (large,)

    if ledger.steps == 0:
        bound = Bound(0.0)
    elif ledger.noiseless:
        bound = Bound(math.inf)
    else:
        bound = chosen.bound(ledger, delta=delta, adjacency=adjacency)
    return Guarantee(
        epsilon=bound.epsilon,
        delta=delta,
        unit=unit,
        adjacency=adjacency,
        accountant=accountant,
        is_guarantee=chosen.is_guarantee,
        steps=ledger.steps,
        conditions=bound.conditions,
        caveats=caveats + bound.caveats,
    )


def epsilon(
    *,
    sampling_rate: float,
    noise_multiplier: float,
    steps: int,
    delta: float,
    unit: str,
    adjacency: Adjacency = "replace",
    accountant: str = "tight",
    buckets: int | None = None,
) -> Guarantee:
    """Return the (epsilon, delta) of `steps` equal steps.

    Args:
        sampling_rate: probability in (0, 1] of drawing one bucket.
        noise_multiplier: std / max_grad_norm, >= 0; 0 gives an infinite epsilon.
        steps: number of steps, >= 0; 0 gives epsilon 0.
        delta: in (0, 1); the tight accountant asks for at least 1e-10.
        unit: what one bucket is: "class", "subclass", a column name.
        adjacency: "replace" one bucket, or "add_remove" one bucket.
        accountant: a name in `ACCOUNTANTS`.
        buckets: K, the number of buckets, if known; only to warn about a delta that is too large for it.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range, or the accountant named
        cannot
            answer for this ledger; the message says what to change.

    Warns:
        UserWarning: delta >= 1 / buckets; sampling_rate is 1; noise_multiplier is 0.

    >>> round(epsilon(sampling_rate=0.01, noise_multiplier=1, steps=1000, delta=1e-5, unit="user").epsilon, 2)
    2.84
    """
    mechanism = BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    return account(
        Ledger().record(mechanism, steps),
        delta=delta,
        unit=unit,
        adjacency=adjacency,
        accountant=accountant,
        buckets=buckets,
    )
