"""Plan a training run: the noise that a target epsilon requires, computed before training.

One step sums about qK clipped gradients, each of norm at most the clip norm S, adds noise of standard deviation
sigma * S in every coordinate, and divides by qK. So the noise has standard deviation sigma / (qK) per coordinate and,
for a model with d parameters, a norm of about sigma * sqrt(d) / (qK); the norm of the signal is at most 1 (both in
units of S). The sigma of a target depends on q and the number of steps only. The remaining choice is K, the number of
buckets; subclasses raise it.

>>> table = plan([6000] * 10, target_epsilon=8, delta=1e-4, parameters=7706, sampling_rates=(0.2,), steps=(200,))
>>> for row in table.best:
...     print(f"{row.clusters_per_class:4} per class: {row.buckets:5} buckets, noise {row.noise_norm:.3g}")
   1 per class:    10 buckets, noise 134
   5 per class:    50 buckets, noise 26.8
  10 per class:   100 buckets, noise 13.4
  25 per class:   250 buckets, noise 5.36
  50 per class:   500 buckets, noise 2.68
 100 per class:  1000 buckets, noise 1.34

`accountants.verdict` says at which of these noise levels training works.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from accountants import checks
from accountants.calibration import Calibration, calibrate
from accountants.guarantee import Adjacency, Guarantee
from accountants.mechanism import BucketMechanism

__all__ = ["PlanRow", "PlanTable", "plan"]

CLUSTERS_PER_CLASS = (1, 5, 10, 25, 50, 100)
SAMPLING_RATES = (0.05, 0.1, 0.2)
STEPS = (200, 1000)
"""Default values. They are few, because every pair of a rate and a number of steps takes a second. The noise per step
grows with the square root of the steps, so the fewest steps always look best; 200 is near the fewest of this project's
studies (137)."""

SAME_NOISE = 1.05
"""Noise levels within this factor count as equal; the cheapest of them is the best. Above some q, sigma is proportional
to q to within 1 %, so drawing more buckets gives no benefit."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One way to train: a row of the table.

    Attributes:
        guarantee: the guarantee for one bucket: epsilon <= target, delta, unit ("class" or "subclass"), adjacency,
            accountant.
        mechanism: one step: sampling_rate q, noise_multiplier sigma.
        steps: number of steps T.
        clusters_per_class: buckets that each class is divided into; 1 is class-level DP.
        buckets: K = classes * clusters_per_class.
        records: N, the number of records of all classes.
        parameters: d, the number of trained parameters.

    >>> table = plan([500] * 10, target_epsilon=8, delta=1e-4, parameters=650, sampling_rates=(0.2,), steps=(100,))
    >>> row = table.row(table.best_setting, clusters_per_class=5)
    >>> row.guarantee.unit, row.buckets, round(row.noise_norm, 1), row.records_per_step, row.passes
    ('subclass', 50, 5.5, 1000.0, 20.0)
    """

    guarantee: Guarantee
    mechanism: BucketMechanism
    steps: int
    clusters_per_class: int
    buckets: int
    records: int
    parameters: int

    @property
    def noise_to_signal(self) -> float:
        """sigma / (qK): standard deviation of the noise in one coordinate of the averaged step, in units of the clip
        norm S. The norm of the signal is at most S."""
        return self.mechanism.noise_multiplier / (self.mechanism.sampling_rate * self.buckets)

    @property
    def noise_norm(self) -> float:
        """sigma * sqrt(d) / (qK): norm of the noise vector divided by the largest possible norm of the signal."""
        return self.noise_to_signal * math.sqrt(self.parameters)

    @property
    def empty_draw(self) -> float:
        """(1 - q)^K in [0, 1): probability that a step draws no bucket; such a step still adds its noise."""
        return float((1 - self.mechanism.sampling_rate) ** self.buckets)

    @property
    def records_per_step(self) -> float:
        """qN: expected number of records in one logical step."""
        return self.mechanism.sampling_rate * self.records

    @property
    def passes(self) -> float:
        """qT: expected number of passes over the data; it measures the compute of training."""
        return self.mechanism.sampling_rate * self.steps

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and properties as JSON values, the guarantee's fields first."""
        return {
            **self.guarantee.to_dict(),
            "clusters_per_class": self.clusters_per_class,
            "buckets": self.buckets,
            "sampling_rate": self.mechanism.sampling_rate,
            "noise_multiplier": self.mechanism.noise_multiplier,
            "noise_to_signal": self.noise_to_signal,
            "noise_norm": self.noise_norm,
            "empty_draw": self.empty_draw,
            "records_per_step": self.records_per_step,
            "records_in_all": self.passes * self.records,
            "passes": self.passes,
        }


@dataclass(frozen=True, kw_only=True)
class PlanTable:
    """Every requested combination of clusters per class, sampling rate and steps.

    Attributes:
        class_sizes: records per class, by class name.
        target_epsilon, delta, adjacency: the target that every row meets.
        parameters: d, the number of trained parameters.
        clusters_per_class: ascending.
        settings: one calibrated (q, sigma, T) per sampling rate and number of steps.

    >>> sizes = {"cats": 400, "dogs": 900}
    >>> table = plan(sizes, target_epsilon=8, delta=1e-4, parameters=650, sampling_rates=(0.2,), steps=(100,))
    >>> table.smallest_class, table.clusters_per_class
    (('cats', 400), (1, 5, 10, 25, 50, 100))
    >>> table.fewest_clusters(noise_norm=3.0)
    46
    """

    class_sizes: Mapping[str, int]
    target_epsilon: float
    delta: float
    adjacency: Adjacency
    parameters: int
    clusters_per_class: tuple[int, ...]
    settings: tuple[Calibration, ...]

    @cached_property
    def smallest_class(self) -> tuple[str, int]:
        """Name and number of records of the smallest class, which limits the clusters per class."""
        return min(self.class_sizes.items(), key=lambda item: item[1])

    @cached_property
    def best_setting(self) -> Calibration:
        """The setting with the least noise, for any K; the cheapest one among equals."""
        return _cheapest_of_the_quietest(self.settings)

    @cached_property
    def best_by_steps(self) -> tuple[Calibration, ...]:
        """The best setting for every number of steps, ascending."""
        steps = sorted({setting.steps for setting in self.settings})
        return tuple(
            _cheapest_of_the_quietest([setting for setting in self.settings if setting.steps == count])
            for count in steps
        )

    @cached_property
    def best(self) -> tuple[PlanRow, ...]:
        """`best_setting` for every number of clusters per class, ascending."""
        return tuple(self.row(self.best_setting, clusters) for clusters in self.clusters_per_class)

    @cached_property
    def rows(self) -> tuple[PlanRow, ...]:
        """Every row, by ascending clusters per class, then by ascending noise."""
        quietest = sorted(self.settings, key=_noise)
        return tuple(
            self.row(setting, clusters) for clusters in self.clusters_per_class for setting in quietest
        )

    def row(self, setting: Calibration, clusters_per_class: int) -> PlanRow:
        """Return the row of one setting with `clusters_per_class` >= 1, which is not checked."""
        unit = "class" if clusters_per_class == 1 else "subclass"
        return PlanRow(
            guarantee=replace(setting.guarantee, unit=unit),
            mechanism=setting.mechanism,
            steps=setting.steps,
            clusters_per_class=clusters_per_class,
            buckets=len(self.class_sizes) * clusters_per_class,
            records=sum(self.class_sizes.values()),
            parameters=self.parameters,
        )

    def fewest_clusters(self, noise_norm: float) -> int:
        """Return the fewest clusters per class at which the best setting's noise is at most `noise_norm` > 0.

        The result may exceed the number of records of the smallest class; then no such partition exists.
        """
        at_one = self.row(self.best_setting, 1).noise_norm
        clusters = math.ceil(at_one / noise_norm)
        # The division may round down to the whole number below, so the row itself is checked.
        return clusters if self.row(self.best_setting, clusters).noise_norm <= noise_norm else clusters + 1


def plan(
    class_sizes: Mapping[str, int] | Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    target_epsilon: float,
    delta: float,
    parameters: int,
    clusters_per_class: Iterable[int] | None = None,
    sampling_rates: Iterable[float] = SAMPLING_RATES,
    steps: Iterable[int] = STEPS,
    adjacency: Adjacency = "replace",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PlanTable:
    """Return the noise that a target epsilon requires, and its size relative to a step, for every combination.

    Every (sampling rate, steps) takes one calibration of some tenths of a second. The noise multiplier does not depend
    on the number of buckets.

    Args:
        class_sizes: records per class, each at least 1, of two classes or more; by name, or in order.
        target_epsilon: above 0.
        delta: in (0, 1); choose it below 1 / (number of buckets).
        parameters: number of trained parameters d, at least 1.
        clusters_per_class: buckets per class, at least 1 and at most the records of the smallest class;
            1 is class-level DP. Default: those of `CLUSTERS_PER_CLASS` that the smallest class allows.
        sampling_rates: probabilities in (0, 1] of drawing one bucket.
        steps: numbers of logical steps, at least 1.
        adjacency: "replace" one bucket, or "add_remove" one bucket.
        progress: called with (calibrations done, total calibrations).

    Raises:
        TypeError, ValueError: an argument is out of range, or no noise meets the target.
    """
    sizes = _class_sizes(class_sizes)
    parameters = checks.integer("parameters", parameters, minimum=1)
    clusters = _clusters(clusters_per_class, sizes)
    rates = _ascending("sampling_rates", (checks.sampling_rate(rate) for rate in sampling_rates))
    counts = _ascending("steps", (checks.integer("steps", count, minimum=1) for count in steps))

    settings: list[Calibration] = []
    total = len(rates) * len(counts)
    progress(0, total)
    for count in counts:
        for rate in rates:
            settings.append(
                calibrate(
                    target_epsilon=target_epsilon,
                    delta=delta,
                    unit="bucket",
                    sampling_rate=rate,
                    steps=count,
                    adjacency=adjacency,
                )
            )
            progress(len(settings), total)
    return PlanTable(
        class_sizes=sizes,
        target_epsilon=target_epsilon,
        delta=delta,
        adjacency=adjacency,
        parameters=parameters,
        clusters_per_class=clusters,
        settings=tuple(settings),
    )


def _noise(setting: Calibration) -> float:
    """Return sigma / q: the noise of a step times K, up to a factor that all settings share."""
    return setting.mechanism.noise_multiplier / setting.mechanism.sampling_rate


def _cheapest_of_the_quietest(settings: Sequence[Calibration]) -> Calibration:
    limit = SAME_NOISE * min(map(_noise, settings))
    return min(
        (setting for setting in settings if _noise(setting) <= limit),
        key=lambda setting: setting.mechanism.sampling_rate * setting.steps,
    )


def _class_sizes(
    given: Mapping[str, int] | Sequence[int] | npt.NDArray[np.integer[Any]],
) -> dict[str, int]:
    named = given.items() if isinstance(given, Mapping) else ((f"class {i}", n) for i, n in enumerate(given))
    sizes = {name: checks.integer(f"the size of {name}", size, minimum=1) for name, size in named}
    if len(sizes) < 2:
        raise ValueError(f"class_sizes must name at least 2 classes, got {len(sizes)}")
    return sizes


def _clusters(given: Iterable[int] | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
    name, smallest = min(sizes.items(), key=lambda item: item[1])
    if given is None:
        return tuple(clusters for clusters in CLUSTERS_PER_CLASS if clusters <= smallest)
    clusters = _ascending(
        "clusters_per_class", (checks.integer("clusters_per_class", c, minimum=1) for c in given)
    )
    if clusters[-1] > smallest:
        raise ValueError(
            f"clusters_per_class must be at most {smallest}, got {clusters[-1]}: "
            f"{name} is the smallest, and every cluster needs at least one record"
        )
    return clusters


def _ascending(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    found = tuple(sorted(set(values)))
    if not found:
        raise ValueError(f"{name} must name at least one value, got none")
    return found
