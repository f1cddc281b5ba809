"""Private selection against exact distributions of the best of a random number of tries, and against dp-accounting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from scipy import stats

from accountants import BucketMechanism, Ledger, renyi
from accountants.guarantee import Adjacency
from accountants.profile import PrivacyProfile
from accountants.selection import Tries

Numbers = renyi.Numbers
SHAPES = [0.0, 0.5, 1.0, 4.0, math.inf]
RUN = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=8.0), 200)


def probabilities(tries: Tries) -> Numbers:
    """Return P[K = k] for k = 0, 1, ..., from the published definitions."""
    k = np.arange(20_000)
    if math.isinf(tries.shape):
        weights = stats.poisson.pmf(k, tries._gamma)
    elif tries.shape == 0:
        weights = np.concatenate([[0], (1 - tries._gamma) ** k[1:] / k[1:]])
    else:
        weights = stats.nbinom.pmf(k, tries.shape, tries._gamma)
    weights[0] = 0
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.001, 3, 40.5])
def test_the_number_of_tries_has_the_published_distribution(shape: float, mean: float) -> None:
    tries = Tries(mean=mean, shape=shape)
    expected = probabilities(tries)
    assert expected @ np.arange(len(expected)) == pytest.approx(mean, rel=1e-6)
    below = np.cumsum(expected)
    for uniform in (0.0, 0.2, 0.5, 0.9, 0.999, 1 - 1e-9):
        assert tries.draw(uniform) == np.searchsorted(below, uniform, side="right")


def best_of(one: Numbers, tries: Tries) -> Numbers:
    """Return the distribution of the largest of K outcomes, each distributed as ``one``, in ascending order."""
    chance = probabilities(tries)

    def generating(x: Numbers) -> Numbers:
        return np.asarray((x[:, np.newaxis] ** np.arange(400)) @ chance[:400])

    assert chance[400:].sum() < 1e-8
    return np.diff(generating(np.concatenate([[0.0], np.cumsum(one)])))


def divergence(p: Numbers, q: Numbers, order: Numbers) -> Numbers:
    logs = order[:, np.newaxis] * np.log(p) + (1 - order[:, np.newaxis]) * np.log(q)
    highest = logs.max(axis=1)
    return np.asarray((highest + np.log(np.exp(logs - highest[:, np.newaxis]).sum(axis=1))) / (order - 1))


class Profile:
    """The privacy profile of two known distributions."""

    def __init__(self, one: Numbers, other: Numbers) -> None:
        self.pair = one, other

    def delta(self, epsilons: Numbers) -> Numbers:
        one, other = self.pair
        ratio = np.exp(epsilons)[:, np.newaxis]
        return np.maximum(
            np.maximum(one - ratio * other, 0).sum(axis=1), np.maximum(other - ratio * one, 0).sum(axis=1)
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 8])
def test_no_pair_of_distributions_exceeds_the_bound(shape: float, mean: float) -> None:
    tries, random = Tries(mean=mean, shape=shape), np.random.default_rng(0)
    slack = []
    for _ in range(150):
        size = int(random.integers(2, 7))
        one = random.dirichlet(np.full(size, random.choice([0.3, 1.0, 5.0]))) + 1e-6
        one /= one.sum()
        other = one * np.exp(random.choice([0.05, 0.5, 2.0]) * random.standard_normal(size))
        other /= other.sum()
        each = np.maximum(divergence(one, other, renyi.ORDERS), divergence(other, one, renyi.ORDERS))
        poisson = math.isinf(shape)
        profile: Any = Profile(one, other)
        bound = tries._of_poisson(each, profile) if poisson else tries._of_negative_binomial(each)
        chosen, otherwise = best_of(one, tries), best_of(other, tries)
        slack.append((bound - divergence(chosen, otherwise, renyi.ORDERS)).min())
    assert min(slack) > -1e-9
    assert min(slack) < 0.7  # the bound is not far from some pair


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, math.inf])
@pytest.mark.parametrize("mean", [3, 20])
def test_it_agrees_with_dp_accounting_under_add_remove(shape: float, mean: float) -> None:
    step, steps = BucketMechanism(sampling_rate=0.01, noise_multiplier=2.0), 500
    reference = RdpAccountant(renyi.ORDERS.tolist(), dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    run = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(2.0)), steps
    )
    tries = Tries(mean=mean, shape=shape)
    # Its Poisson distribution includes 0, and so has another mean.
    published_mean = tries._gamma if math.isinf(shape) else mean
    reference.compose(dp_accounting.dp_event.RepeatAndSelectDpEvent(run, published_mean, shape))
    found = tries.guarantee(
        Ledger().record(step, steps), delta=1e-6, unit="record", adjacency="add_remove"
    ).epsilon
    expected = reference.get_epsilon(1e-6)
    if math.isinf(shape):  # its delta of one run comes from moments, ours from the tight accountant
        assert 0.5 * expected < found < expected + 1e-3
    else:
        assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("shape", [0.0, 1.0, math.inf])
@pytest.mark.parametrize(("adjacency", "distance"), [("replace", 2.0), ("add_remove", 1.0)])
def test_the_best_of_gaussian_releases_is_within_the_bound(
    shape: float, adjacency: Adjacency, distance: float
) -> None:
    sigma, tries = 5.0, Tries(mean=6, shape=shape)
    x = np.linspace(-9 * sigma, 9 * sigma + distance, 4001)
    one, other = (np.diff(stats.norm.cdf(x, loc=mean, scale=sigma)) for mean in (distance, 0.0))
    chosen, otherwise = best_of(one / one.sum(), tries), best_of(other / other.sum(), tries)
    run = Ledger().record(BucketMechanism(sampling_rate=1, noise_multiplier=sigma))
    for delta in (1e-2, 1e-4):
        claimed = tries.guarantee(run, delta=delta, unit="user", adjacency=adjacency).epsilon
        assert Profile(chosen, otherwise).delta(np.array([claimed]))[0] < delta
        # Choosing does cost: the epsilon of a single run is not enough.
        single = run.guarantee(delta=delta, unit="user", adjacency=adjacency).epsilon
        assert Profile(chosen, otherwise).delta(np.array([single]))[0] > delta


@pytest.mark.parametrize("shape", SHAPES)
def test_it_costs_more_with_more_tries_less_noise_and_larger_units(shape: float) -> None:
    def epsilon(mean: float = 5, noise: float = 8.0, steps: int = 200, owned: int = 1) -> float:
        run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=noise), steps)
        found = Tries(mean=mean, shape=shape).guarantee(run, delta=1e-5, unit="user", buckets_per_unit=owned)
        return found.epsilon

    assert RUN.guarantee(delta=1e-5, unit="user").epsilon < epsilon()
    assert epsilon() < min(epsilon(mean=9), epsilon(noise=7.0), epsilon(steps=250), epsilon(owned=2))


def test_the_guarantee_says_what_it_is() -> None:
    found = Tries(mean=10).guarantee(RUN, delta=1e-5, unit="user", adjacency="add_remove")
    assert (found.accountant, found.adjacency, found.unit, found.steps) == (
        "selection",
        "add_remove",
        "user",
        200,
    )
    assert found.is_guarantee
    assert (
        "the best of a random number of runs, 10 on average (logarithmic); the steps are those of one run"
        in found.caveats
    )


def test_no_step_costs_nothing_and_no_noise_everything() -> None:
    assert Tries(mean=3).guarantee(Ledger(), delta=1e-5, unit="user").epsilon == 0
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        bare = Ledger().record(BucketMechanism(sampling_rate=0.1, noise_multiplier=0))
    for shape in SHAPES:
        assert Tries(mean=3, shape=shape).guarantee(bare, delta=1e-5, unit="user").epsilon == math.inf


@pytest.mark.parametrize("shape", SHAPES)
def test_it_reads_back_what_it_wrote(shape: float) -> None:
    tries = Tries(mean=4.5, shape=shape)
    assert Tries.from_dict(tries.to_dict()) == tries


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tries(mean=1), "mean must be above 1 .* got 1: a single run is no selection"),
        (lambda: Tries(mean=2e6), r"mean must be above 1 and at most 1e\+06, got 2e\+06"),
        (lambda: Tries(mean=math.nan), "mean must be finite, got nan"),
        (lambda: Tries(mean=5, shape=-0.1), "shape must be at least 0, got -0.1"),
        (lambda: Tries(mean=5, shape=math.nan), "shape must be finite, got nan"),
        (lambda: Tries.from_dict({"rule": "selection", "mean": 5}), "missing: shape"),
        (lambda: Tries(mean=5).guarantee(RUN, delta=1, unit="user"), r"delta must be in \(0, 1\), got 1"),
        (
            lambda: Tries(mean=5).guarantee(RUN, delta=1e-5, unit="user", buckets_per_unit=0),
            "buckets_per_unit must be at least 1, got 0",
        ),
    ],
)
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_profile_is_that_of_the_unit() -> None:
    one = PrivacyProfile(ledger=RUN, unit="user").delta([0.1])
    two = PrivacyProfile(ledger=RUN, unit="user", buckets_per_unit=2).delta([0.1])
    assert one[0] < two[0]
