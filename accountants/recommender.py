"""Settings of a private linear head that need no tuning, from public numbers only.

The rule: every unit takes part in every step (q = 1), for 100 steps, with a clipping norm so small that every gradient
is clipped. A step then moves the head by the mean direction of the gradients, plus noise, and two numbers matter:
the noise nu = sigma / (K sqrt(T)) of the whole training relative to that mean, and the distance that the head may go.
The distance is the smaller of 5.5 / sqrt(nu) and 0.5 / nu, so more noise means shorter steps, and the learning rate is
the distance divided by T S.

Both constants were chosen on the digits inside scikit-learn with scattering features; ``python -m
benchmarks.recommender`` compares the rule with a sweep on further data sets. Features must be centred vectors of length
3, as :class:`dpmi.models.features.PublicStatistics` makes them, and the head must start at 0.

>>> found = recommend(units=600, target_epsilon=1.0, delta=1e-5)
>>> print(f"{found.steps} steps, noise {found.noise_multiplier:.1f}, learning rate {found.learning_rate:.1f}")
100 steps, noise 74.7, learning rate 8.0
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accountants import checks
from accountants.calibration import calibrate
from accountants.guarantee import Adjacency, Guarantee

STEPS = 100
"""T. From 30 steps on, accuracy hardly depends on their number; with 100, also the largest rates are safe."""

NORM = 0.05
"""S, in units of features of length 3. Only the product of S and the learning rate matters below this."""

FAR, NEAR = 5.5, 0.5
"""The distance that the head may go, times sqrt(nu) and times nu."""

HOPELESS = 0.1
"""nu above which the digits' heads were no better than half right, however far they went."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Settings for :meth:`dpmi.privacy.PrivacyEngine.make_private` and for plain SGD without momentum.

    Args:
        guarantee: the epsilon of these settings for one unit.
        units: K.
        sampling_rate: q.
        steps: T.
        noise_multiplier: sigma.
        max_grad_norm: S.
    """

    guarantee: Guarantee
    units: int
    sampling_rate: float
    steps: int
    noise_multiplier: float
    max_grad_norm: float

    @property
    def noise(self) -> float:
        """nu = sigma / (q K sqrt(T)): noise of the whole training, relative to the mean of the clipped gradients."""
        return self.noise_multiplier / (self.sampling_rate * self.units * math.sqrt(self.steps))

    @property
    def learning_rate(self) -> float:
        """Constant learning rate of plain SGD: with it, the head goes the distance of the rule at most."""
        distance = min(FAR / math.sqrt(self.noise), NEAR / self.noise)
        return distance / (self.steps * self.max_grad_norm)

    @property
    def hopeless(self) -> bool:
        """Whether so much noise leaves less than half of the accuracy."""
        return self.noise > HOPELESS

    def check(self, *, units: int, given: Mapping[str, object]) -> None:
        """Check that the settings are for these units, and that no other settings are given.

        Raises:
            ValueError: they are for another number of units, or a value of ``given`` is not None.
        """
        if units != self.units:
            raise ValueError(
                f"recommended is for {self.units} units, but the partition has {units} buckets; call recommend with "
                f"units={units}"
            )
        if twice := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{twice[0]} is given twice, by itself and by recommended; leave it out")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            **self.guarantee.to_dict(),
            "units": self.units,
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": self.max_grad_norm,
            "learning_rate": self.learning_rate,
            "noise": self.noise,
            "hopeless": self.hopeless,
        }


def recommend(
    *,
    units: int,
    target_epsilon: float,
    delta: float,
    unit: str = "unit",
    adjacency: Adjacency = "replace",
) -> Recommendation:
    """Return settings of a linear head on public features for a target epsilon.

    Args:
        units: K, the number of buckets, at least 2; whether it is public is for the caller to judge.
        target_epsilon: above 0, for one unit.
        delta: in (0, 1), and well below 1 / K.
        unit: what one unit is, for the guarantee.
        adjacency: "replace" or "add_remove" one unit.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """
    count = checks.integer("units", units, minimum=2)
    # With sampling, the same epsilon would cost more steps; for a small head a step over all units is cheap.
    found = calibrate(
        target_epsilon=target_epsilon,
        delta=delta,
        unit=unit,
        sampling_rate=1.0,
        steps=STEPS,
        adjacency=adjacency,
        buckets=count,
    )
    return Recommendation(
        guarantee=found.guarantee,
        units=count,
        sampling_rate=found.mechanism.sampling_rate,
        steps=STEPS,
        noise_multiplier=found.mechanism.noise_multiplier,
        max_grad_norm=NORM,
    )


def fewest_units(
    *, target_epsilon: float, delta: float, noise: float = HOPELESS, adjacency: Adjacency = "replace"
) -> int:
    """Return the fewest units K at which the noise nu of :func:`recommend` is at most ``noise``.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """
    if checks.real("noise", noise) <= 0:
        raise ValueError(f"noise must be above 0, got {noise}")
    one = recommend(units=2, target_epsilon=target_epsilon, delta=delta, adjacency=adjacency)
    return max(2, math.ceil(one.noise * 2 / noise))
