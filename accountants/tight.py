"""The tight accountant: it composes privacy loss distributions and refines their interval until epsilon converges."""

from __future__ import annotations

import math
from functools import lru_cache

from accountants import lemma3, pairs, pld
from accountants.guarantee import Adjacency, Bound
from accountants.mechanism import (
    BallsInBins,
    BucketMechanism,
    FixedNumber,
    Mechanism,
    Totals,
    TruncatedPoisson,
    adjacencies,
)

STATED_ERROR = 0.005
"""Largest error of epsilon above the exact value, as a fraction of it, unless a caveat says otherwise."""

_CONVERGED = 3 * STATED_ERROR
"""Epsilon has converged if a fourfold refinement lowers it by less than this fraction. The error falls at least
linearly with the interval, so the remaining error is at most a third of that change."""

_SHARP = 2e-3
"""A stricter limit of the same change. Below it, the remaining error is about 1e-4 of epsilon, the last digit that is
usually reported."""

_CHEAP = 1.2e5
"""Number of privacy losses of the whole run up to which `_SHARP` applies; a refinement then takes a tenth of a second.
"""

_NEGLIGIBLE = 1e-6
"""An absolute change of epsilon below this value counts as convergence."""

LOOSE: dict[type[Mechanism], str] = {
    FixedNumber: "for buckets drawn in fixed number, exact for one step; of several, how far above the exact value is "
    "not known",
    TruncatedPoisson: "for truncated Poisson draws, how far above the exact value is not known",
}
"""Caveats of mechanisms of which no exact epsilon is known."""

WITHOUT_CHANCE = (
    "passes with every bucket in one random step count as if it were known in which one, so this is far above the "
    "exact value"
)
IN_TWO_CHANGES = (
    "a replacement counts as a removal and an addition, because no exact epsilon is known for passes with every bucket "
    "in one random step"
)


def bound(totals: Totals, *, delta: float, adjacency: Adjacency) -> Bound:
    """Return an upper bound on epsilon, with a caveat that states the interval.

    The bound is within `STATED_ERROR` of the exact value, unless a caveat says otherwise: where no interval that
    float64 resolves is fine enough (for example a million steps at a sampling rate of a millionth), and for draws of
    which no exact epsilon is known.

    Raises:
        ValueError: delta < 1e-10, a noise multiplier in (0, 1e-3), or more steps than float64 can compose
            at this delta.
    """
    return _bound(tuple(totals.items()), delta, adjacency)


@lru_cache(maxsize=256)  # the models of a study that differ in the seed have the same runs
def _bound(runs: tuple[tuple[Mechanism, int], ...], delta: float, adjacency: Adjacency) -> Bound:
    totals: dict[Mechanism, int] = {}
    for mechanism, steps in runs:
        plain = pairs.plain(mechanism, adjacency)
        totals[plain] = totals.get(plain, 0) + steps
    found = _composed(totals, delta, adjacency)
    kinds = {type(mechanism) for mechanism in totals}
    caveats = tuple(caveat for kind, caveat in LOOSE.items() if kind in kinds)
    if adjacency == "replace" and any(isinstance(mechanism, BallsInBins) for mechanism, _ in runs):
        caveats += (WITHOUT_CHANCE,)
        apart = _in_two_changes(runs, delta)
        if apart is not None and apart.epsilon < found.epsilon:
            return apart
    return Bound(found.epsilon, caveats=found.caveats + caveats)


def _in_two_changes(runs: tuple[tuple[Mechanism, int], ...], delta: float) -> Bound | None:
    """Return the epsilon of a replacement as that of a removal and then an addition; None if it has none."""
    if "add_remove" not in adjacencies(mechanism for mechanism, _ in runs):
        return None
    one_change = _bound(runs, delta, "add_remove")
    totals = dict(runs)
    interval = pld.fine_interval(totals, "add_remove")
    run = pld.compose(totals, adjacency="add_remove", interval=interval)
    if run is None:
        return None
    return Bound(run.epsilon_of_two_changes(delta), caveats=(*one_change.caveats, IN_TWO_CHANGES))


def _composed(totals: Totals, delta: float, adjacency: Adjacency) -> Bound:
    """Compose at finer and finer intervals."""
    pld.check(totals, delta=delta)
    epsilon, change, finest = math.inf, math.inf, math.inf
    for interval in pld.intervals(totals, adjacency):
        run = pld.compose(totals, adjacency=adjacency, interval=interval)
        if run is None:
            break
        # Every interval gives a bound. In exact arithmetic, a finer interval gives a smaller one.
        finer = run.epsilon(delta)
        change = max(0.0, epsilon - finer)
        epsilon, finest = min(epsilon, finer), interval
        cheap = pld.points(totals, adjacency, interval / 4) <= _CHEAP
        if change <= max((_SHARP if cheap else _CONVERGED) * epsilon, _NEGLIGIBLE):
            break
    if math.isinf(epsilon):
        raise ValueError(
            f"delta = {delta:g} is too small for the tight accountant to resolve for these {sum(totals.values())} "
            "steps: raise delta, or use accountant='lemma3'"
        )
    caveat = f"an upper bound: privacy losses are rounded to multiples of {finest:.2g}"
    if change > max(_CONVERGED * epsilon, _NEGLIGIBLE):
        caveat += ", the finest interval that float64 allows here, which is still coarse for such small steps"
    if adjacency == "add_remove" and all(type(mechanism) is BucketMechanism for mechanism in totals):
        # Exact moments are proved for this adjacency, and smaller where losses are huge and so rounded coarsely.
        moments = lemma3.bound(totals, delta=delta, adjacency=adjacency).epsilon
        if moments < epsilon:
            return Bound(
                moments, caveats=("an upper bound: by moments, which are below the rounded losses here",)
            )
    return Bound(epsilon, caveats=(caveat,))
