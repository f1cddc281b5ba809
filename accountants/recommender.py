"""Settings of a private linear head that need no tuning, from public numbers only.

The rule: every unit takes part in every step (q = 1), for 200 steps, with a clipping norm so small that the gradients
stay about as long as the norm: 0.5 / sqrt(n) for units of n records, as the mean of n unrelated gradients shrinks by
sqrt(n) once the head has learned; the gradients of one class agree, so a unit of one class counts as one record. A step
then moves the head by the mean direction of the gradients, plus noise, and two numbers matter: the noise
nu = sigma / (K sqrt(T)) of the whole training relative to that mean, and the distance that the head may go. The
distance is the smaller of 5.5 sqrt(C / 10) / sqrt(nu) and 0.5 / nu: more noise means shorter steps, the C rows of the
head share the way, and the second limit keeps the noise of a logit below 1.5. The learning rate is the distance divided
by T S.

5.5 and 0.5 were chosen on the digits inside scikit-learn with scattering features. Four parts of the rule followed from
a look at test accuracy elsewhere: the root of n (MNIST, with the digits), the factor for C (Omniglot), one record for
units of one class, and the 200 steps (Fashion-MNIST). ``python -m benchmarks.recommender`` compares the rule with a
sweep. Features must be centred vectors of length 3, as :class:`dpmi.models.features.PublicStatistics` makes them, and
the head must start at 0.

>>> found = recommend(units=600, records_per_unit=100, classes=10, target_epsilon=1.0, delta=1e-5)
>>> print(f"{found.steps} steps, noise {found.noise_multiplier:.1f}, learning rate {found.learning_rate:.1f}")
200 steps, noise 105.6, learning rate 4.0
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accountants import checks
from accountants.calibration import calibrate
from accountants.guarantee import Adjacency, Guarantee

STEPS = 200
"""T. With noise, accuracy hardly depends on the number of steps from 30 on. With little noise the way is long, and 100
steps are so large that a head of 256 features goes to and fro; 200 are safe."""

NORM = 0.5
"""S for units of one record, in units of features of length 3."""

FAR, NEAR = 5.5, 0.5
"""The distance that the head of ten classes may go, times sqrt(nu) and times nu."""

HOPELESS = 0.1
"""nu above which the digits' heads were no better than half right, however far they went."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Settings for :meth:`dpmi.privacy.PrivacyEngine.make_private` and for plain SGD without momentum.

    Args:
        guarantee: the epsilon of these settings for one unit.
        units: K.
        classes: C.
        sampling_rate: q.
        steps: T.
        noise_multiplier: sigma.
        max_grad_norm: S.

    >>> found = recommend(units=500, records_per_unit=10, classes=10, target_epsilon=4.0, delta=1e-4)
    >>> found.sampling_rate, found.steps, round(found.max_grad_norm, 3), found.hopeless
    (1.0, 200, 0.158, False)
    >>> found.fewest_units
    20
    """

    guarantee: Guarantee
    units: int
    classes: int
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
        distance = min(FAR * math.sqrt(self.classes / 10 / self.noise), NEAR / self.noise)
        return distance / (self.steps * self.max_grad_norm)

    @property
    def hopeless(self) -> bool:
        """Whether so much noise leaves less than half of the accuracy."""
        return self.noise > HOPELESS

    @property
    def fewest_units(self) -> int:
        """The fewest units for which the same noise would not be hopeless."""
        return max(2, math.ceil(self.noise * self.units / HOPELESS))

    def check(self, *, units: int, buckets_per_unit: int, given: Mapping[str, object]) -> None:
        """Check that the settings are for these units, and that no other settings are given.

        Raises:
            ValueError: they are for another number of units, a unit owns several buckets, or a value of ``given`` is
                not None.
        """
        if buckets_per_unit > 1:
            raise ValueError(
                f"recommended is for units that own one bucket, but a unit of the partition owns up to "
                f"{buckets_per_unit}; give sampling_rate, steps, max_grad_norm, target_epsilon and target_delta instead"
            )
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
            "classes": self.classes,
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
    records_per_unit: float,
    classes: int,
    target_epsilon: float,
    delta: float,
    unit: str = "unit",
    adjacency: Adjacency = "replace",
) -> Recommendation:
    """Return settings of a linear head on public features for a target epsilon.

    Args:
        units: K, the number of buckets, at least 2; whether it is public is for the caller to judge.
        records_per_unit: about how many records a unit has, at least 1, as is publicly known; 1 for units of one class,
            such as subclasses. Only the clipping norm depends on it.
        classes: C, the number of outputs of the head, at least 2.
        target_epsilon: above 0, for one unit.
        delta: in (0, 1), and well below 1 / K.
        unit: what one unit is, for the guarantee.
        adjacency: "replace" or "add_remove" one unit.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """
    count = checks.integer("units", units, minimum=2)
    outputs = checks.integer("classes", classes, minimum=2)
    norm = norm_for(records_per_unit)
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
        classes=outputs,
        sampling_rate=found.mechanism.sampling_rate,
        steps=STEPS,
        noise_multiplier=found.mechanism.noise_multiplier,
        max_grad_norm=norm,
    )


def norm_for(records_per_unit: float) -> float:
    """Return the clipping norm S for units of about this many records, in units of features of length 3.

    Raises:
        TypeError, ValueError: the number is not one of at least 1.
    """
    if not checks.real("records_per_unit", records_per_unit) >= 1:
        raise ValueError(f"records_per_unit must be at least 1, got {records_per_unit}")
    return NORM / math.sqrt(records_per_unit)
