"""What ``make_private_with_epsilon`` trains with: the least noise that meets a target, or recommended settings."""

from __future__ import annotations

from typing import NamedTuple

from accountants import Adjacency, calibrate, checks
from accountants.least_noise import least_noise
from accountants.recommender import Recommendation

from .partition import Partition
from .samplers import POISSON, PoissonSampling, Sampling, steps_of_a_pass


class Planned(NamedTuple):
    """The settings of a training that meets its target, as for :meth:`PrivacyEngine.make_private`."""

    sampling_rate: float | None
    steps: int
    max_grad_norm: float
    noise_multiplier: float


def planned(
    partition: Partition,
    sampling: Sampling,
    *,
    sampling_rate: float | None,
    steps: int | None,
    epochs: int | None,
    steps_per_epoch: int | None,
    max_grad_norm: float | None,
    target_epsilon: float | None,
    target_delta: float | None,
    adjacency: Adjacency,
    recommended: Recommendation | None,
) -> Planned:
    """Return the settings of a training whose epsilon does not exceed the target.

    Args and errors: as :meth:`PrivacyEngine.make_private_with_epsilon`.
    """
    given = {
        "sampling_rate": sampling_rate,
        "steps": steps,
        "max_grad_norm": max_grad_norm,
        "target_epsilon": target_epsilon,
        "target_delta": target_delta,
    }
    if recommended is not None:
        recommended.check(
            units=partition.num_buckets,
            buckets_per_unit=partition.buckets_per_unit,
            given={**given, "epochs": epochs},
        )
        if sampling != POISSON:
            raise ValueError(
                f"sampling is {sampling}, but recommended settings are for Poisson draws; leave sampling out"
            )
        return Planned(
            sampling_rate=recommended.sampling_rate,
            steps=recommended.steps,
            max_grad_norm=recommended.max_grad_norm,
            noise_multiplier=recommended.noise_multiplier,
        )
    sampling.check(sampling_rate, partition.num_buckets)
    if epochs is not None:
        if steps is not None:
            raise ValueError(
                f"steps is {steps} and epochs is {epochs}, which both say how long to train; give one of them"
            )
        rate = sampling.rate(sampling_rate, partition.num_buckets)
        steps = checks.integer("epochs", epochs, minimum=1) * steps_of_a_pass(sampling, rate, steps_per_epoch)
    if steps is None or max_grad_norm is None or target_epsilon is None or target_delta is None:
        missing = next(name for name, value in given.items() if value is None and name != "sampling_rate")
        raise ValueError(f"{missing} is missing; give it, or all five settings by recommended=...")
    if isinstance(sampling, PoissonSampling):
        found = calibrate(
            target_epsilon=target_epsilon,
            delta=target_delta,
            unit=partition.unit,
            sampling_rate=sampling_rate,
            steps=steps,
            adjacency=adjacency,
            buckets=partition.num_buckets,
            buckets_per_unit=partition.buckets_per_unit,
        )
        noise_multiplier = found.mechanism.noise_multiplier
    else:
        noise_multiplier = least_noise(
            sampling.mechanism(sampling_rate, partition.num_buckets, 1.0),
            target_epsilon=target_epsilon,
            delta=target_delta,
            unit=partition.unit,
            steps=steps,
            adjacency=checks.adjacency(adjacency),
        ).noise_multiplier
    return Planned(
        sampling_rate=sampling_rate,
        steps=steps,
        max_grad_norm=max_grad_norm,
        noise_multiplier=noise_multiplier,
    )
