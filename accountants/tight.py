"""The tight accountant: the privacy loss distribution of the whole run, as fine as the answer needs."""

from __future__ import annotations

import math

from accountants import pld
from accountants.guarantee import Adjacency, Bound
from accountants.mechanism import Totals

STATED_ERROR = 0.005
"""How far epsilon may lie above the exact value, as a fraction of it, where no caveat says otherwise."""

_CONVERGED = 3 * STATED_ERROR
"""The error falls with the square of the interval, or at least with the interval: after a fourfold refinement
that lowered epsilon by less than this fraction, a third of that is left at most."""

_SHARP = 2e-3
"""Below this fraction what is left is about 1e-4 of epsilon, the last digit that anybody prints."""

_CHEAP = 1.2e5
"""Privacy losses of the whole run, up to which `_SHARP` is worth another refinement: a tenth of a second."""

_NEGLIGIBLE = 1e-6
"""An epsilon that moves by less has converged, whatever its size."""


def bound(totals: Totals, *, delta: float, adjacency: Adjacency) -> Bound:
    """Return an upper bound on epsilon, and the interval it was computed at.

    It is within `STATED_ERROR` of the exact value, except where no interval that float64 resolves is fine
    enough (a million steps at a sampling rate of a millionth); the caveat then says so.

    Raises:
        ValueError: delta < 1e-10, a noise multiplier in (0, 1e-3), or more steps than float64 can compose
            at this delta.
    """
    pld.check(totals, delta=delta)
    epsilon, change, finest = math.inf, math.inf, math.inf
    for interval in pld.intervals(totals, adjacency):
        run = pld.compose(totals, adjacency=adjacency, interval=interval)
        if run is None:
            break
        # Every interval gives a bound. In exact arithmetic the finer one is the smaller.
        finer = run.epsilon(delta)
        change = max(0.0, epsilon - finer)
        epsilon, finest = min(epsilon, finer), interval
        cheap = pld.points(totals, adjacency, interval / 4) <= _CHEAP
        if change <= max((_SHARP if cheap else _CONVERGED) * epsilon, _NEGLIGIBLE):
            break
    if math.isinf(epsilon):
        raise ValueError(
            f"delta = {delta:g} is below what the tight accountant can resolve for these {sum(totals.values())} steps: "
            "raise delta, or use accountant='lemma3'"
        )
    caveat = f"an upper bound: privacy losses are moved to multiples of {finest:.2g}"
    if change > max(_CONVERGED * epsilon, _NEGLIGIBLE):
        caveat += ", the finest that can be computed here, and still coarse for such small steps"
    return Bound(epsilon, caveats=(caveat,))
