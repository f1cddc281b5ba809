"""The tight accountant: it composes privacy loss distributions and refines their interval until epsilon converges."""

from __future__ import annotations

import math
from functools import lru_cache

from accountants import lemma3, pld
from accountants.guarantee import Adjacency, Bound
from accountants.mechanism import BucketMechanism, Totals, owned

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


def bound(totals: Totals, *, delta: float, adjacency: Adjacency) -> Bound:
    """Return an upper bound on epsilon, with a caveat that states the interval.

    The bound is within `STATED_ERROR` of the exact value, unless no interval that float64 resolves is fine enough (for
    example a million steps at a sampling rate of a millionth); the caveat then says so.

    Raises:
        ValueError: delta < 1e-10, a noise multiplier in (0, 1e-3), or more steps than float64 can compose
            at this delta.
    """
    return _bound(tuple(totals.items()), delta, adjacency)


@lru_cache(maxsize=256)  # the models of a study that differ in the seed have the same runs
def _bound(runs: tuple[tuple[BucketMechanism, int], ...], delta: float, adjacency: Adjacency) -> Bound:
    totals = dict(runs)
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
    if adjacency == "add_remove" and all(owned(mechanism) == 1 for mechanism in totals):
        # Exact moments are proved for this adjacency, and smaller where losses are huge and so rounded coarsely.
        moments = lemma3.bound(totals, delta=delta, adjacency=adjacency).epsilon
        if moments < epsilon:
            return Bound(
                moments, caveats=("an upper bound: by moments, which are below the rounded losses here",)
            )
    return Bound(epsilon, caveats=(caveat,))
