"""What the integrations share: the arguments that a library's trainer leaves to the user, and the steps of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..engine import PrivacyEngine
from ..partition import Partition
from ..samplers import POISSON, Sampling


def check(privacy: Mapping[str, Any], *, own: Collection[str], where: str) -> None:
    """Check the arguments of ``make_private`` that the user gives to an integration.

    Args:
        privacy: arguments of ``make_private``, or of ``make_private_with_epsilon`` if there is a ``target_epsilon``.
        own: names of the arguments that the integration sets.
        where: where the user sets these.

    Raises:
        TypeError: an argument is the integration's, or there is no partition.
        ValueError: the steps of a draw cannot be taken one by one.
    """
    for name in {*own, "steps", "steps_per_epoch"} & privacy.keys():
        raise TypeError(f"privacy has {name!r}, which the trainer sets: {where}")
    if "partition" not in privacy:
        raise TypeError("privacy has no 'partition'; for users it is Partition.by_column(ids, unit='user')")
    sampling: Sampling = privacy.get("sampling", POISSON)
    if sampling.steps_of_a_pass is not None:
        raise ValueError(
            f"privacy has sampling={sampling}, whose steps are drawn and charged as one pass; use draws of single "
            "steps, such as PoissonSampling(), or make_private in a loop of your own"
        )


def per_epoch(privacy: Mapping[str, Any]) -> int:
    """Return the logical steps of an epoch: 1 / q, rounded, so that a bucket is drawn once in expectation.

    Raises:
        ValueError: the sampling rate is missing or out of range.
    """
    sampling: Sampling = privacy.get("sampling", POISSON)
    partition: Partition = privacy["partition"]
    rate, buckets = privacy.get("sampling_rate"), partition.num_buckets
    sampling.check(rate, buckets)
    return max(1, round(buckets / sampling.expected_buckets(rate, buckets)))


def make_private(
    engine: PrivacyEngine, privacy: Mapping[str, Any], *, steps: int, **own: Any
) -> tuple[Any, ...]:
    """Make a training private in which one pass over the loader is one logical step.

    A pass of one step has no batches after an empty draw, and ends when the step is released. So a trainer that takes
    one pass at a time counts logical steps.

    Args:
        engine: the engine.
        privacy: the user's arguments.
        steps: logical steps of the whole training, for the noise of a ``target_epsilon``.
        own: the integration's arguments.

    Returns:
        What the engine returns.
    """
    make: Callable[..., tuple[Any, ...]] = engine.make_private
    if "target_epsilon" in privacy:
        make, own = engine.make_private_with_epsilon, {**own, "steps": steps}
    return make(**privacy, **own, steps_per_epoch=1)


def check_count(*, counted: int, released: int) -> None:
    """Check that a trainer counts the steps that the engine released.

    Raises:
        RuntimeError: the numbers differ.
    """
    if counted != released:
        raise RuntimeError(
            f"the trainer is at step {counted}, but {released} steps were released; nothing more is released. To go "
            "on, make a new trainer with a new engine, and resume it from a checkpoint"
        )
