"""The part of a guarantee that an accountant computes."""

from dataclasses import dataclass

from accountants.guarantee import Condition


@dataclass(frozen=True)
class Bound:
    """An epsilon, and what is to be said about this one in particular; the rest of a `Guarantee` is the
    request."""

    epsilon: float
    conditions: tuple[Condition, ...] = ()
    caveats: tuple[str, ...] = ()
