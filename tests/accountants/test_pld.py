"""Loss distributions: rounded towards a larger epsilon, with room for floating-point error."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from accountants import ADJACENCIES, BucketMechanism, pld
from accountants.guarantee import Adjacency

from .test_tight import ledger_of


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), [(0.2, 1.6, 200, 1e-3), (0.01, 1.0, 1000, 1e-5)])
def test_a_coarser_interval_never_lowers_epsilon(
    q: float, sigma: float, steps: int, delta: float, adjacency: Adjacency
) -> None:
    at = []
    for exponent in (-3, -6, -9, -12):
        run = pld.compose(ledger_of(q, sigma, steps).totals, adjacency=adjacency, interval=2.0**exponent)
        assert run is not None
        at.append(run.epsilon(delta))
    assert all(coarse >= fine * (1 - 1e-6) for coarse, fine in pairwise(at))


def test_rounding_of_every_step_is_set_aside_in_both_directions() -> None:
    """A trillion steps, by their number alone, leave 1e-4 of delta to floating-point error."""
    one = pld.one_step(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), "add_remove", 2.0**-10)
    many = dataclasses.replace(one, steps=10**12)
    assert many.epsilon(1e-3) == pytest.approx(one.epsilon(9e-4), rel=1e-9)
    assert many.epsilon(1e-3) > one.epsilon(1e-3) + 1e-3
    epsilons = np.array([0.0, 0.1, 800.0])
    for deltas in (pld.LossDistribution.delta, pld.LossDistribution.delta_of_removal):
        assert deltas(many, epsilons) == pytest.approx(deltas(one, epsilons) + 1e-4, rel=1e-9)


def test_probabilities_that_sum_to_more_than_one_are_not_composed() -> None:
    # At this interval rounding adds about 1e-5 to one step, and 10 to a million.
    assert pld.compose(ledger_of(1e-6, 1.0, 10**6).totals, adjacency="add_remove", interval=2.0**-22) is None
