"""How the buckets of a step are drawn: one object from which sampler, divisor and charge are made.

:class:`PoissonSampling` is the default, and has the smallest epsilon of those that every step draws anew. The others
are what many loops do: a fixed number, a largest number for a fixed memory, or one pass in random order.
docs/decisions/other_samplers.md compares them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from accountants import BallsInBins, BucketMechanism, FixedNumber, TruncatedPoisson, checks
from accountants.mechanism import Mechanism

from .partition import IntArray

Uniform = Callable[[int], npt.NDArray[np.float64]]
"""Returns so many independent uniform numbers in [0, 1), multiples of 2^-53."""

_RESOLUTION = 2**53


class Sampling(ABC):
    """How the buckets of steps are drawn.

    The sampling rate is an argument of :meth:`PrivacyEngine.make_private`, so the methods get it; it is None for draws
    that have none of their own, which ``has_rate`` says.

    Attributes:
        has_rate: whether a sampling rate belongs to it.

    >>> def share(sampling: Sampling, rate: float | None = None) -> float:
    ...     return sampling.rate(rate, buckets=10)
    >>> share(PoissonSampling(), 0.2), share(FixedNumberSampling(drawn=3))
    (0.2, 0.3)
    """

    has_rate: ClassVar[bool]

    def check(self, sampling_rate: float | None, buckets: int) -> None:
        """Check the sampling rate, and the own arguments against the number of buckets.

        Raises:
            ValueError: a sampling rate is missing or does not apply, or an argument is out of range.
        """
        name = type(self).__name__
        if self.has_rate and sampling_rate is None:
            raise ValueError(
                f"sampling_rate is missing; {name} needs the probability of drawing one bucket, in (0, 1]"
            )
        if not self.has_rate and sampling_rate is not None:
            raise ValueError(
                f"sampling_rate is {sampling_rate}, which does not apply to sampling={self}; leave sampling_rate out"
            )
        # The mechanism checks its arguments.
        self.mechanism(sampling_rate, buckets, 1.0)

    @abstractmethod
    def mechanism(self, sampling_rate: float | None, buckets: int, noise_multiplier: float) -> Mechanism:
        """Return what is charged: for a step, or for the steps of a pass."""

    @abstractmethod
    def expected_buckets(self, sampling_rate: float | None, buckets: int) -> float:
        """Return the public divisor of a noisy sum."""

    def rate(self, sampling_rate: float | None, buckets: int) -> float:
        """Return the probability that a bucket takes part in a step, before any truncation."""
        return self.expected_buckets(None, buckets) / buckets if sampling_rate is None else sampling_rate

    @abstractmethod
    def draws(self, sampling_rate: float | None, buckets: int, uniform: Uniform) -> list[IntArray]:
        """Return the ids of the drawn buckets, ascending, of the steps that one charge covers."""

    @property
    def steps_of_a_pass(self) -> int | None:
        """The number of steps that one charge covers, if these are a pass over the loader; else None."""
        return None


@dataclass(frozen=True)
class PoissonSampling(Sampling):
    """Every bucket is drawn independently, with the sampling rate as its probability.

    >>> uniform = np.random.default_rng(0).random
    >>> [PoissonSampling().draws(0.3, 10, uniform)[0].tolist() for _ in range(3)]
    [[1, 2, 3], [1, 3, 5, 8], [0, 1]]
    """

    has_rate: ClassVar[bool] = True

    def mechanism(self, sampling_rate: float | None, buckets: int, noise_multiplier: float) -> Mechanism:
        """Return what is charged for a step."""
        del buckets
        return BucketMechanism(sampling_rate=_given(sampling_rate), noise_multiplier=noise_multiplier)

    def expected_buckets(self, sampling_rate: float | None, buckets: int) -> float:
        """Return qK."""
        return _given(sampling_rate) * buckets

    def draws(self, sampling_rate: float | None, buckets: int, uniform: Uniform) -> list[IntArray]:
        """Return the drawn buckets of one step."""
        numbers = uniform(buckets)
        return [np.flatnonzero(numbers < _given(sampling_rate))]


@dataclass(frozen=True)
class FixedNumberSampling(Sampling):
    """Every step draws the same number of buckets, uniformly at random and without replacement.

    The epsilon of `replace` is an upper bound, above that of Poisson sampling at the same rate; `add_remove` has none.

    Args:
        drawn: n in [1, K], the number of buckets of a step.

    Raises:
        TypeError, ValueError: it is not an integer of at least 1.

    >>> sampling = FixedNumberSampling(drawn=3)  # for make_private(..., sampling=sampling), without a sampling_rate
    >>> uniform = np.random.default_rng(0).random
    >>> [sampling.draws(None, 10, uniform)[0].tolist() for _ in range(3)]
    [[1, 2, 3], [1, 3, 5], [0, 1, 5]]
    >>> sampling.mechanism(None, buckets=10, noise_multiplier=2.0)
    FixedNumber(units=10, drawn=3, noise_multiplier=2.0)
    """

    drawn: int
    has_rate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "drawn", checks.integer("drawn", self.drawn, minimum=1))

    def mechanism(self, sampling_rate: float | None, buckets: int, noise_multiplier: float) -> Mechanism:
        """Return what is charged for a step."""
        del sampling_rate
        return FixedNumber(units=buckets, drawn=self.drawn, noise_multiplier=noise_multiplier)

    def expected_buckets(self, sampling_rate: float | None, buckets: int) -> float:
        """Return n."""
        del sampling_rate, buckets
        return float(self.drawn)

    def draws(self, sampling_rate: float | None, buckets: int, uniform: Uniform) -> list[IntArray]:
        """Return the drawn buckets of one step."""
        del sampling_rate
        return [_subset(np.arange(buckets), self.drawn, uniform)]


@dataclass(frozen=True)
class TruncatedPoissonSampling(Sampling):
    """Poisson sampling with a largest number of buckets; of more than that, a uniformly random subset is used.

    The memory of a step is then bounded. A limit a few standard deviations above qK hardly costs anything.

    Args:
        most: B >= 1, the most buckets of a step.

    Raises:
        TypeError, ValueError: it is not an integer of at least 1.

    >>> sampling = TruncatedPoissonSampling(most=4)
    >>> uniform = np.random.default_rng(0).random
    >>> [len(sampling.draws(0.5, 10, uniform)[0]) for _ in range(5)]
    [3, 4, 3, 4, 4]
    >>> sampling.expected_buckets(0.5, 10)  # the divisor is that of Poisson sampling
    5.0
    """

    most: int
    has_rate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", checks.integer("most", self.most, minimum=1))

    def mechanism(self, sampling_rate: float | None, buckets: int, noise_multiplier: float) -> Mechanism:
        """Return what is charged for a step."""
        return TruncatedPoisson(
            units=buckets,
            sampling_rate=_given(sampling_rate),
            most=self.most,
            noise_multiplier=noise_multiplier,
        )

    def expected_buckets(self, sampling_rate: float | None, buckets: int) -> float:
        """Return qK."""
        return _given(sampling_rate) * buckets

    def draws(self, sampling_rate: float | None, buckets: int, uniform: Uniform) -> list[IntArray]:
        """Return the used buckets of one step."""
        (drawn,) = POISSON.draws(sampling_rate, buckets, uniform)
        return [drawn if len(drawn) <= self.most else _subset(drawn, self.most, uniform)]


@dataclass(frozen=True)
class BallsInBinsSampling(Sampling):
    """Every bucket takes part in exactly one step of a pass, chosen uniformly and independently of the others.

    A pass over the loader is a pass of the assignment; a loop that is left early continues it. It is charged whole when
    its first step is released.

    Args:
        steps_per_pass: T >= 1, the steps of a pass.

    Raises:
        TypeError, ValueError: it is not an integer of at least 1.

    >>> sampling = BallsInBinsSampling(steps_per_pass=3)
    >>> [step.tolist() for step in sampling.draws(None, 6, np.random.default_rng(0).random)]
    [[1, 3, 4, 5], [], [0, 2]]
    >>> sampling.mechanism(None, buckets=6, noise_multiplier=2.0)
    BallsInBins(steps_per_pass=3, noise_multiplier=2.0)
    """

    steps_per_pass: int
    has_rate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "steps_per_pass", checks.integer("steps_per_pass", self.steps_per_pass, minimum=1)
        )

    def mechanism(self, sampling_rate: float | None, buckets: int, noise_multiplier: float) -> Mechanism:
        """Return what is charged for a pass."""
        del sampling_rate, buckets
        return BallsInBins(steps_per_pass=self.steps_per_pass, noise_multiplier=noise_multiplier)

    def expected_buckets(self, sampling_rate: float | None, buckets: int) -> float:
        """Return K / T."""
        del sampling_rate
        return buckets / self.steps_per_pass

    def draws(self, sampling_rate: float | None, buckets: int, uniform: Uniform) -> list[IntArray]:
        """Return the buckets of every step of a pass."""
        del sampling_rate
        steps = _below(self.steps_per_pass, buckets, uniform)
        return [np.flatnonzero(steps == step) for step in range(self.steps_per_pass)]

    @property
    def steps_of_a_pass(self) -> int | None:
        """T."""
        return self.steps_per_pass


POISSON = PoissonSampling()


def steps_of_a_pass(sampling: Sampling, rate: float, steps_per_epoch: int | None) -> int:
    """Return the number of logical steps in one pass over the loader.

    Args:
        sampling: how buckets are drawn.
        rate: the probability that a bucket takes part in a step.
        steps_per_epoch: the user's number; None takes 1 / rate, rounded.

    Raises:
        ValueError: ``steps_per_epoch`` contradicts the sampling.
    """
    whole = sampling.steps_of_a_pass
    if whole is not None and steps_per_epoch not in (None, whole):
        raise ValueError(
            f"steps_per_epoch is {steps_per_epoch}, but a pass of sampling={sampling} has {whole} steps; leave "
            "steps_per_epoch out"
        )
    return whole or steps_per_epoch or max(1, round(1 / rate))


def _given(sampling_rate: float | None) -> float:
    assert sampling_rate is not None  # Sampling.check
    return sampling_rate


def _subset(ids: IntArray, number: int, uniform: Uniform) -> IntArray:
    """Return a uniformly random subset, ascending: those with the smallest of independent numbers."""
    if number >= len(ids):
        return ids
    while True:
        places = uniform(len(ids))
        # Without equal numbers every order is equally likely; with some, the order of the ids would decide.
        if len(np.unique(places)) == len(ids):
            found: IntArray = ids[np.sort(np.argpartition(places, number)[:number])]
            return found


def _below(limit: int, n: int, uniform: Uniform) -> IntArray:
    """Return independent uniform integers in [0, limit), (n,)."""
    # Above the largest multiple of the limit, the remainders would not be equally likely.
    largest = _RESOLUTION - _RESOLUTION % limit
    found = (uniform(n) * _RESOLUTION).astype(np.int64)
    while len(again := np.flatnonzero(found >= largest)):
        found[again] = (uniform(len(again)) * _RESOLUTION).astype(np.int64)
    below: IntArray = found % limit
    return below
