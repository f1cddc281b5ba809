"""The privacy mechanisms of training steps: how buckets are drawn, and how much noise is added.

All have one noise multiplier: the standard deviation of the noise divided by max_grad_norm, the largest norm of ONE
bucket's contribution. They differ in the draws. :class:`BucketMechanism` is Poisson sampling, which every accountant
covers; the others are covered by the accountants that name them, see `accountants.registry.Accountant.mechanisms`.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from accountants import checks
from accountants.guarantee import ADJACENCIES, Adjacency


@dataclass(frozen=True, kw_only=True)
class BucketMechanism:
    """One noisy step: the clipped contributions of Poisson-sampled buckets, summed, plus Gaussian noise.

    Attributes:
        sampling_rate: probability q in (0, 1] that a bucket takes part in the step.
        noise_multiplier: sigma >= 0, the standard deviation of the noise divided by max_grad_norm, the largest norm
            of ONE bucket's contribution. It is the same number under both adjacencies: replacing a bucket moves the
            sum by up to 2 * max_grad_norm, and the accountants apply this factor 2 themselves.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    Warns:
        UserWarning: noise_multiplier is 0: epsilon is infinite from the first step. This is a legitimate baseline, but
            rarely intended.

    >>> BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
    """

    sampling_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        # Stored as floats, so that equal steps compare and hash equal.
        object.__setattr__(self, "sampling_rate", checks.sampling_rate(self.sampling_rate))
        object.__setattr__(self, "noise_multiplier", _noise(self.noise_multiplier))


@dataclass(frozen=True, kw_only=True)
class SeveralBuckets(BucketMechanism):
    """The same step, for a unit that owns several of the separately sampled buckets.

    It is not what a run releases, so a ledger never holds it, but how a run looks to a larger unit.

    Attributes:
        buckets_per_unit: k >= 1, the most buckets that one unit owns.
    """

    buckets_per_unit: int

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("buckets_per_unit", self.buckets_per_unit, minimum=1)


@dataclass(frozen=True, kw_only=True)
class FixedNumber:
    """One noisy step on a uniformly random set of a fixed number of buckets, drawn without replacement.

    Only `replace` is defined: with one bucket more or less, the other buckets would be drawn at another rate.

    Attributes:
        units: K >= 1, the number of buckets to draw from.
        drawn: n in [1, K], the number of buckets that take part in the step.
        noise_multiplier: sigma >= 0, the standard deviation of the noise divided by max_grad_norm.

    Raises:
        TypeError, ValueError: an argument is not a number or out of range.

    Warns:
        UserWarning: noise_multiplier is 0: epsilon is infinite.

    >>> FixedNumber(units=600, drawn=60, noise_multiplier=2).sampling_rate
    0.1
    """

    units: int
    drawn: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", checks.integer("units", self.units, minimum=1))
        object.__setattr__(self, "drawn", checks.integer("drawn", self.drawn, minimum=1))
        if self.drawn > self.units:
            raise ValueError(f"drawn must be at most {self.units}, the number of units, got {self.drawn}")
        object.__setattr__(self, "noise_multiplier", _noise(self.noise_multiplier))

    @property
    def sampling_rate(self) -> float:
        """The probability n / K that a bucket takes part in the step."""
        return self.drawn / self.units


@dataclass(frozen=True, kw_only=True)
class TruncatedPoisson:
    """One noisy step on Poisson-sampled buckets; of more than a largest number, a uniformly random subset is used.

    Attributes:
        units: K >= 1, the number of buckets to draw from.
        sampling_rate: probability q in (0, 1] that a bucket is drawn, before the truncation.
        most: B >= 1, the most buckets that take part in the step.
        noise_multiplier: sigma >= 0, the standard deviation of the noise divided by max_grad_norm.

    Raises:
        TypeError, ValueError: an argument is not a number or out of range.

    Warns:
        UserWarning: noise_multiplier is 0: epsilon is infinite.

    >>> from accountants import Ledger
    >>> step = TruncatedPoisson(units=50, sampling_rate=0.1, most=10, noise_multiplier=2.0)
    >>> round(Ledger().record(step, steps=50).guarantee(delta=1e-3, unit="user").epsilon, 2)
    2.08
    """

    units: int
    sampling_rate: float
    most: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", checks.integer("units", self.units, minimum=1))
        object.__setattr__(self, "sampling_rate", checks.sampling_rate(self.sampling_rate))
        object.__setattr__(self, "most", checks.integer("most", self.most, minimum=1))
        object.__setattr__(self, "noise_multiplier", _noise(self.noise_multiplier))


@dataclass(frozen=True, kw_only=True)
class BallsInBins:
    """One pass of noisy steps, in which every bucket takes part in exactly one step, chosen uniformly at random.

    A ledger holds whole passes. A pass that was left early is charged whole, because what it released is a part of what
    a whole pass releases.

    Attributes:
        steps_per_pass: T >= 1, the steps that a bucket is assigned to, independently of the other buckets.
        noise_multiplier: sigma >= 0, the standard deviation of the noise of every step divided by max_grad_norm.

    Raises:
        TypeError, ValueError: an argument is not a number or out of range.

    Warns:
        UserWarning: noise_multiplier is 0: epsilon is infinite.

    >>> from accountants import Ledger
    >>> step = BallsInBins(steps_per_pass=5, noise_multiplier=2.0)
    >>> three_passes = Ledger().record(step, steps=3)
    >>> three_passes.steps, round(three_passes.guarantee(delta=1e-3, unit="user").epsilon, 2)
    (15, 2.44)
    """

    steps_per_pass: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "steps_per_pass", checks.integer("steps_per_pass", self.steps_per_pass, minimum=1)
        )
        object.__setattr__(self, "noise_multiplier", _noise(self.noise_multiplier))


Mechanism = BucketMechanism | FixedNumber | TruncatedPoisson | BallsInBins
"""What a ledger charges."""

SAMPLERS: dict[str, type[Mechanism]] = {
    "poisson": BucketMechanism,
    "fixed_number": FixedNumber,
    "truncated_poisson": TruncatedPoisson,
    "balls_in_bins": BallsInBins,
}
"""The mechanisms by the name of their sampler, as a ledger's JSON has it."""


def sampler(mechanism: Mechanism) -> str:
    """Return the name of the mechanism's sampler.

    Raises:
        KeyError: it is none of `SAMPLERS`, but for example a subclass of one.
    """
    return {kind: name for name, kind in SAMPLERS.items()}[type(mechanism)]


def poisson(mechanism: Mechanism, by: str) -> BucketMechanism:
    """Return the mechanism, if it is Poisson sampling of single buckets.

    Args:
        mechanism: of a run.
        by: what covers Poisson sampling only, for the message.

    Raises:
        ValueError: it is another mechanism.
    """
    if type(mechanism) is not BucketMechanism:
        raise ValueError(f"{by} covers Poisson sampling only, and the run has {mechanism!r}")
    return mechanism


def steps_of(mechanism: Mechanism) -> int:
    """Return the number of steps that one charge covers: those of a pass, or one."""
    return mechanism.steps_per_pass if isinstance(mechanism, BallsInBins) else 1


def adjacencies(mechanisms: Iterable[Mechanism]) -> tuple[Adjacency, ...]:
    """Return the adjacencies under which all of the mechanisms have an epsilon."""
    fixed = any(isinstance(mechanism, FixedNumber) for mechanism in mechanisms)
    return tuple(adjacency for adjacency in ADJACENCIES if adjacency == "replace" or not fixed)


def check_adjacency(mechanisms: Iterable[Mechanism], adjacency: Adjacency) -> None:
    """Raise a ValueError if one of the mechanisms has no epsilon under this adjacency."""
    if adjacency not in adjacencies(mechanisms):
        raise ValueError(
            f"adjacency {adjacency!r} is not defined for buckets drawn in fixed number, because one bucket more or "
            "less changes the rate at which all others are drawn: use adjacency='replace'"
        )


def owned(mechanism: Mechanism) -> int:
    """Return the number of buckets that one unit owns."""
    return mechanism.buckets_per_unit if isinstance(mechanism, SeveralBuckets) else 1


def for_units(totals: "Totals", buckets_per_unit: int) -> "Totals":
    """Return the steps as they look to units that own up to so many buckets.

    Raises:
        TypeError, ValueError: it is not an integer of at least 1, or above 1 for steps that are not Poisson-sampled.
    """
    if checks.integer("buckets_per_unit", buckets_per_unit, minimum=1) == 1:
        return totals
    found: dict[Mechanism, int] = {}
    for mechanism, steps in totals.items():
        if type(mechanism) is not BucketMechanism:
            raise ValueError(
                f"buckets_per_unit is {buckets_per_unit}, which is covered for Poisson sampling only, and the run has "
                f"{mechanism!r}; make the unit the bucket, or use Poisson sampling"
            )
        several = SeveralBuckets(
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            buckets_per_unit=buckets_per_unit,
        )
        found[several] = steps
    return found


def noiseless(mechanisms: Iterable[Mechanism]) -> bool:
    """Whether a step adds no noise, so that no epsilon bounds the release."""
    return any(mechanism.noise_multiplier == 0 for mechanism in mechanisms)


def _noise(noise_multiplier: object) -> float:
    """Check a noise multiplier, and warn about none."""
    found = checks.noise_multiplier(noise_multiplier)
    if found == 0:
        # The level of the caller of the mechanism's constructor.
        warnings.warn("noise_multiplier is 0: epsilon is infinite", UserWarning, stacklevel=4)
    return found


Totals = Mapping[Mechanism, int]
"""Number of charges >= 1 of each mechanism: steps, or passes of `BallsInBins`. A bound depends on nothing else, because
the order does not matter."""
