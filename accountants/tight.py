"""The tight accountant: the privacy loss distribution of the run, composed numerically by dp-accounting.

One step under `replace` is the symmetric pair (1-q) N(0, s^2) + q N(-1, s^2) against (1-q) N(0, s^2) + q
N(+1, s^2) (Lebeda, Regehr, Kamath, Steinke 2025, Prop. 13); under `add_remove` it is the mixture against
N(0, s^2), each direction composed by itself and the larger delta taken (Zhu, Dong, Wang 2022, Thm 11).
dp-accounting knows both: noise_multiplier is std / max_grad_norm for either, the doubled shift of a
replacement is inside.

dp-accounting rounds privacy losses up to multiples of an interval ("connect the dots"), so every interval
gives an upper bound, and a finer one a smaller bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from accountants.bound import Bound
from accountants.guarantee import Adjacency

if TYPE_CHECKING:
    from accountants.ledger import Ledger

SMALLEST_DELTA = 1e-10
"""Below it the answer would be made of the tails that the numerical composition cuts off."""

SMALLEST_NOISE = 1e-3
"""Below it dp-accounting overflows; one step then has privacy losses in the millions."""

LARGEST_NOISE = 1e9
"""More noise is counted as this much, again an upper bound: far above it dp-accounting overflows too."""

SMALLEST_INTERVAL, LARGEST_INTERVAL = 1e-6, 1e2
"""A smaller one resolves nothing that a float64 delta holds; at a larger one dp-accounting overflows."""

ROUNDING_PER_STEP = 1e-16
"""How much of delta is set aside per step for floating-point error: composing T steps is one Fourier
transform to the power T, which was seen to move delta by up to 4e-17 T, in either direction."""

CONVERGED = 1e-3
"""The interval is refined tenfold until epsilon moves by less than this fraction."""

COARSE_POINTS, FINE_POINTS = 1e4, 1e6
"""Grid points of a step at the first interval (at most) and at the last (at most): milliseconds, and about
a second."""


def bound(ledger: Ledger, *, delta: float, adjacency: Adjacency) -> Bound:
    """Return an upper bound on epsilon, and the interval it was computed at.

    It is within about 0.1 % of the exact value, except for a sampling rate so small (below about 1e-3 at
    sigma = 1) that one step's loss is far below the finest interval; the caveat then says so.

    Raises:
        ValueError: delta < 1e-10, a noise multiplier in (0, 1e-3), or more steps than float64 can compose
            at this delta.
    """
    if delta < SMALLEST_DELTA:
        raise ValueError(
            f"delta must be at least {SMALLEST_DELTA:g} for the tight accountant, got {delta:g}: "
            "raise delta, or use accountant='lemma3'"
        )
    noise = min(mechanism.noise_multiplier for mechanism in ledger.totals)
    if noise < SMALLEST_NOISE:
        raise ValueError(
            f"noise_multiplier must be at least {SMALLEST_NOISE:g} for the tight accountant, got {noise:g}: "
            "use accountant='lemma3', or 0 for no privacy at all"
        )
    # Privacy losses of one step lie within this width, up to a mass of e^-50, whatever q and the adjacency.
    # The sum of all steps may spread further; without subsampling it spreads like the square root of their
    # number.
    step_width = 4 / noise / noise + 40 / noise
    run_width = step_width + 40 * math.sqrt(ledger.steps) / noise
    exponent = _exponent(max(step_width / COARSE_POINTS, run_width / FINE_POINTS))
    finest = _exponent(step_width / FINE_POINTS)

    epsilon = composed_epsilon(ledger, delta=delta, adjacency=adjacency, interval=10.0**exponent)
    change = math.inf
    while exponent > finest and change > CONVERGED * epsilon:
        exponent -= 1
        coarser = epsilon
        epsilon = composed_epsilon(ledger, delta=delta, adjacency=adjacency, interval=10.0**exponent)
        change = coarser - epsilon
    caveat = f"an upper bound: privacy losses are rounded up to multiples of {10.0**exponent:g}"
    if CONVERGED * epsilon < change < math.inf:
        caveat += f", and the last tenfold refinement still lowered epsilon by {change:.2g}"
    return Bound(epsilon, caveats=(caveat,))


def _exponent(interval: float) -> int:
    """Return the power of ten at or above an interval, within what dp-accounting can compute."""
    return math.ceil(math.log10(min(max(interval, SMALLEST_INTERVAL), LARGEST_INTERVAL)))


def composed_epsilon(ledger: Ledger, *, delta: float, adjacency: Adjacency, interval: float) -> float:
    """Return epsilon at one discretisation interval; arguments are trusted.

    Raises:
        ValueError: the mass that numerical composition cannot resolve is not below delta.
    """
    # Here because importing dp-accounting takes longer than most answers.
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent  # noqa: PLC0415
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    usable_delta = delta - ROUNDING_PER_STEP * ledger.steps
    if usable_delta < delta / 2:
        raise ValueError(
            f"delta must be at least {2 * ROUNDING_PER_STEP * ledger.steps:g} for {ledger.steps} steps, "
            f"got {delta:g}: below it the tight accountant would answer with floating-point noise; "
            "raise delta, or use accountant='lemma3'"
        )
    relation = {
        "replace": NeighboringRelation.REPLACE_ONE,
        "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    }[adjacency]
    accountant = PLDAccountant(relation, interval)
    for mechanism, steps in ledger.totals.items():
        noise = min(mechanism.noise_multiplier, LARGEST_NOISE)
        accountant.compose(PoissonSampledDpEvent(mechanism.sampling_rate, GaussianDpEvent(noise)), steps)
    # dp-accounting searches from large losses down; for a delta close to 1 it would go on below zero, and
    # overflow there.
    if accountant.get_delta(0.0) <= usable_delta:
        return 0.0
    epsilon = float(accountant.get_epsilon(usable_delta))
    if math.isinf(epsilon):
        raise ValueError(
            f"delta = {delta:g} is below the tail mass cut off while composing {len(ledger.totals)} "
            "different mechanisms: raise delta, or use accountant='lemma3'"
        )
    return epsilon
