"""The privacy profile of a run: delta at any epsilon, the trade-off function, and a bound on reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from accountants import checks, pld
from accountants.guarantee import Adjacency
from accountants.ledger import Ledger
from accountants.mechanism import Mechanism, for_units

_EPSILONS = 1025
"""Number of epsilons at which delta is computed for the trade-off. Every one gives a valid line; the best is used."""

MU_SLACK = 1e-10
"""Probability of a failure that mu does not cover."""

_MU_EPSILONS, _FEW_EPSILONS = 8193, 513
"""Number of epsilons that mu is compared at; it raises mu by about a thousandth. Few where every one takes long, beyond
those whose exponential float64 holds; there, losses are spread over hundreds."""

Numbers = npt.NDArray[np.float64]

Runs = tuple[tuple[Mechanism, int], ...]
"""The steps of each mechanism of a run, in a form that caches take."""


@dataclass(frozen=True, kw_only=True)
class PrivacyProfile:
    """All (epsilon, delta) that a run satisfies simultaneously, as upper bounds by the tight accountant.

    A guarantee is one point of the profile. Balle, Barthe, Gaboardi 2018 define delta(epsilon) as the privacy profile;
    Dong, Roth, Su 2022, Prop. 6, show that it and the trade-off function f determine each other.

    Attributes:
        ledger: the run.
        unit: what is protected as a whole.
        adjacency: "replace" or "add_remove".
        buckets_per_unit: k >= 1, the most separately sampled buckets that one unit owns.

    Raises:
        TypeError, ValueError: an invalid unit, adjacency or number, or a run that the tight accountant cannot compose.

    >>> from accountants import BucketMechanism
    >>> run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200)
    >>> profile = PrivacyProfile(ledger=run, unit="subclass", adjacency="add_remove")
    >>> profile.delta([1.0, 7.45]).round(4)
    array([0.4596, 0.001 ])
    """

    ledger: Ledger
    unit: str
    adjacency: Adjacency = "replace"
    buckets_per_unit: int = 1

    def __post_init__(self) -> None:
        checks.unit(self.unit)
        checks.adjacency(self.adjacency)
        totals = for_units(self.ledger.totals, self.buckets_per_unit)
        if not self._free and not self.ledger.noiseless:
            pld.check(totals, delta=1.0)

    def delta(self, epsilons: npt.ArrayLike) -> Numbers:
        """Return delta in [0, 1] at each epsilon.

        Args:
            epsilons: >= 0, any shape; infinity is allowed.

        Raises:
            ValueError: NaN, or an epsilon below 0.
        """
        asked = checks.array("epsilons", epsilons, lowest=0.0, highest=np.inf)
        if self._free or self.ledger.noiseless:
            return np.full(asked.shape, float(self.ledger.noiseless))
        return self._composition.delta(asked.ravel()).reshape(asked.shape)

    def trade_off(self, type_one_errors: npt.ArrayLike) -> Numbers:
        """Return f: the least type II error in [0, 1] of any test whose type I error is at most the given one.

        The test distinguishes two neighbouring datasets from everything that the run released. Perfect privacy is
        1 - alpha. The result is a lower bound, because delta is an upper bound (Dong, Roth, Su 2022, eq. (6)).

        Args:
            type_one_errors: alpha in [0, 1], any shape.

        Raises:
            ValueError: NaN, or an alpha outside [0, 1].
        """
        alpha = checks.array("type_one_errors", type_one_errors, lowest=0.0, highest=1.0)
        epsilons, deltas = self._curve
        a = alpha.ravel()[:, np.newaxis]
        lines = np.maximum(1 - deltas - np.exp(epsilons) * a, np.exp(-epsilons) * (1 - deltas - a))
        least: Numbers = np.clip(lines.max(axis=1), 0.0, 1.0).reshape(alpha.shape)
        return least

    @cached_property
    def mu(self) -> float:
        """The mu of Gaussian differential privacy, an upper bound; 0 without a step, infinity without noise.

        The run is as private as one release of a number that the unit moves by mu standard deviations of its noise, but
        for a failure of probability `MU_SLACK`: delta(epsilon) <= delta_mu(epsilon) + MU_SLACK at every epsilon, or
        f(alpha) >= Phi(Phi^-1(1 - alpha) - mu) - MU_SLACK at every alpha (Dong, Roth, Su 2022, Def. 4 and Cor. 1).
        Without that failure, no sampling would lower mu: in the rarest event, every step draws the unit.

        >>> from accountants import BucketMechanism
        >>> run = Ledger().record(BucketMechanism(sampling_rate=1, noise_multiplier=4), 4)
        >>> round(PrivacyProfile(ledger=run, unit="class", adjacency="add_remove").mu, 2)  # sqrt(4) / 4
        0.5
        """
        if self._free or self.ledger.noiseless:
            return math.inf if self.ledger.noiseless else 0.0
        return _mu(self._runs, self.adjacency)

    @cached_property
    def _curve(self) -> tuple[Numbers, Numbers]:
        """Epsilons, and delta at each."""
        known = self._free or self.ledger.noiseless
        epsilons = np.zeros(1) if known else _grid(self._composition)
        return epsilons, self.delta(epsilons)

    @cached_property
    def _composition(self) -> pld.LossDistribution:
        """The composition of all steps, computed once."""
        return _composed(self._runs, self.adjacency)

    @property
    def _runs(self) -> Runs:
        """The steps as they look to the unit."""
        return tuple(for_units(self.ledger.totals, self.buckets_per_unit).items())

    @property
    def _free(self) -> bool:
        return self.ledger.steps == 0


def reconstruction_bound(ledger: Ledger, priors: npt.ArrayLike, *, buckets_per_unit: int = 1) -> Numbers:
    """Return B(kappa), a bound on the probability that any attack reconstructs one unit's content.

    P is the distribution of everything that the run releases with the unit, Q without it. If an attack succeeds with
    probability at most kappa on a run without the unit, for any measure of success, it succeeds on a run with the unit
    with probability at most

        B(kappa) = sup {P(E) : Q(E) <= kappa} = inf over real epsilon of (e^epsilon kappa + delta_{P||Q}(epsilon))

    (Hayes, Mahloujifar, Balle 2023, Thm 2). No delta has to be chosen. The result is an upper bound.

    Args:
        ledger: the run.
        priors: kappa in [0, 1], any shape: the probability of success without the unit.
        buckets_per_unit: k >= 1, the most separately sampled buckets that one unit owns.

    Raises:
        TypeError, ValueError: NaN, a prior outside [0, 1], a number of buckets below 1, or a run that the tight
            accountant cannot compose.

    >>> from accountants import BucketMechanism
    >>> run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200)
    >>> reconstruction_bound(run, [0.01, 0.1]).round(3)
    array([0.331, 0.717])
    """
    kappa = checks.array("priors", priors, lowest=0.0, highest=1.0)
    totals = for_units(ledger.totals, buckets_per_unit)
    if not totals:
        return kappa
    if ledger.noiseless:
        return np.ones(kappa.shape)
    pld.check(totals, delta=1.0)
    composed = _composed(tuple(totals.items()), "add_remove")
    positive = _grid(composed)
    epsilons = np.concatenate([-positive[:0:-1], positive])
    deltas = composed.delta_of_removal(epsilons)
    lines = np.exp(epsilons) * kappa.ravel()[:, np.newaxis] + deltas
    bound: Numbers = np.clip(lines.min(axis=1), kappa.ravel(), 1.0).reshape(kappa.shape)
    return bound


@lru_cache(maxsize=256)  # the models of a study that differ in the seed have the same runs
def _mu(runs: Runs, adjacency: Adjacency) -> float:
    composed = _composed(runs, adjacency)
    if math.isinf(end := composed.epsilon(MU_SLACK)):
        return math.inf
    epsilons = np.linspace(0.0, end, _MU_EPSILONS if end < pld.LARGEST_EXPONENT else _FEW_EPSILONS)
    # Both sides fall, so that one comparison covers an interval; after the last one, delta is below the slack.
    deltas, rights = composed.delta(epsilons[:-1]) - MU_SLACK, epsilons[1:]

    def holds(mu: float) -> bool:
        return bool((_of_gaussian(mu, rights) >= deltas).all())

    low, high = 0.0, 1.0
    while not holds(high):
        low, high = high, 2 * high
    while high - low > max(1e-5 * high, 1e-9):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _of_gaussian(mu: float, epsilons: Numbers) -> Numbers:
    """Return delta of N(mu, 1) against N(0, 1), at each epsilon (Balle, Wang 2018, Thm 8)."""
    from scipy.special import log_ndtr, ndtr  # noqa: PLC0415 (slow to import)

    found: Numbers = ndtr(mu / 2 - epsilons / mu) - np.exp(epsilons + log_ndtr(-mu / 2 - epsilons / mu))
    return found


@lru_cache(maxsize=32)  # the models of a study that differ in the seed have the same runs
def _composed(runs: Runs, adjacency: Adjacency) -> pld.LossDistribution:
    totals: dict[Mechanism, int] = dict(runs)
    composed = pld.compose(
        totals,
        adjacency=adjacency,
        interval=pld.fine_interval(totals, adjacency, points=2e4),
    )
    if composed is None:
        raise ValueError(
            f"float64 cannot compose {sum(totals.values())} steps at a sampling rate this small: "
            "compute an epsilon with accountant='lemma3' instead"
        )
    return composed


def _grid(composed: pld.LossDistribution) -> Numbers:
    """Return epsilons from 0 to where delta is negligible."""
    smallest = max(pld.SMALLEST_DELTA, 2 * pld.ROUNDING_PER_STEP * composed.steps)
    # float64 overflows shortly above e^700. Larger epsilons would not improve the bound anyway.
    return np.linspace(0.0, min(composed.epsilon(smallest), pld.LARGEST_EXPONENT), _EPSILONS)
