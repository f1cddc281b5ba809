"""What the rows of an explanation share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from accountants.guarantee import Adjacency
    from accountants.mechanism import BucketMechanism


class Row(NamedTuple):
    """The part of an `Explanation` that one accountant answers for; the rest is the request."""

    accountant: str
    adjacency: Adjacency
    epsilon: float | None
    is_bound: bool
    reason: str


def compared(epsilon: float, tight: float | None) -> str:
    """Return how far an epsilon is from the tight one, as the end of a sentence; empty where that one is None."""
    if tight is None:
        return ""
    if epsilon == tight:
        return "; the tight epsilon here is the same"
    side = "below" if epsilon < tight else "above"
    return f"; {abs(epsilon - tight):.3g} {side} the tight epsilon here"


def trivial(mechanism: BucketMechanism, steps: int) -> tuple[float, str] | None:
    """Return epsilon and the reason where no accountant is needed to know it."""
    if steps == 0:
        return 0.0, "no step was taken, so nothing was released"
    if mechanism.noise_multiplier == 0:
        return math.inf, "noise_multiplier is 0: what is released is not noisy, and no epsilon bounds it"
    return None
