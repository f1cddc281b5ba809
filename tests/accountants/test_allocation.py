"""One pass in random order: quadrature, closed forms, and Monte Carlo, which shares no code with the accountant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from accountants import BallsInBins, BucketMechanism, Ledger, allocation
from accountants.allocation import Allocated
from accountants.guarantee import Adjacency
from accountants.mechanism import Mechanism

from .divergences import Numbers, gaussian

ORDERS = np.array([-1.0, -0.2, 0.0, 0.1, 0.3, 1.0, 2.5])


def cost(mechanism: Mechanism, times: int, adjacency: Adjacency, delta: float = 1e-5) -> float:
    return Ledger().record(mechanism, times).guarantee(delta=delta, unit="class", adjacency=adjacency).epsilon


def of_quotients(quotients: Numbers, weights: Numbers, at: float) -> tuple[float, float]:
    """The divergences of removal and addition, of quotients of densities and their probabilities without a bucket."""
    return (
        float(weights @ np.maximum(quotients - math.exp(at), 0.0)),
        float(weights @ np.maximum(1 - math.exp(at) * quotients, 0.0)),
    )


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_a_pass_of_one_step_is_the_gaussian_mechanism(sigma: float) -> None:
    expected = np.array([gaussian(1 / sigma, at) for at in ORDERS])
    for pair in allocation.pairs(steps=1, sigma=sigma):
        found = pair.delta(ORDERS)
        assert np.all(found >= expected - 1e-14)
        np.testing.assert_allclose(found, expected, rtol=3e-3, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_two_steps_are_an_integral_over_the_plane(sigma: float) -> None:
    z = np.linspace(-9, 9, 1801)
    weight = norm.pdf(z) * (z[1] - z[0])
    one = np.exp(z / sigma - 1 / (2 * sigma**2))
    quotients = ((one[:, np.newaxis] + one) / 2).ravel()
    weights = np.outer(weight, weight).ravel()
    removal, addition = allocation.pairs(steps=2, sigma=sigma)
    for at in ORDERS:
        exact = of_quotients(quotients, weights, at)
        for pair, expected in zip((removal, addition), exact, strict=True):
            found = pair.delta(np.array([at]))[0]
            assert expected - 2e-6 <= found <= expected * 1.005 + 1e-6


@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_contributions_that_depend_on_earlier_releases_are_no_worse(sigma: float) -> None:
    """The second contribution is chosen from the first release, as training does."""
    z = np.linspace(-9, 9, 1201)
    weights = np.outer(norm.pdf(z), norm.pdf(z)).ravel() * (z[1] - z[0]) ** 2
    first, second = (grid.ravel() for grid in np.meshgrid(z, z, indexing="ij"))
    removal, addition = allocation.pairs(steps=2, sigma=sigma)
    for chosen in (
        np.sign(first),
        np.where(first > 1, 1.0, 0.2),
        np.clip(first, -1, 1),
        np.full_like(z, 0.5),
    ):
        length = (
            np.broadcast_to(chosen, first.shape) if len(chosen) == len(first) else np.full_like(first, 0.5)
        )

        def quotient(x: Numbers, y: Numbers) -> Numbers:
            found: Numbers = np.exp(x * y / sigma - x * x / (2 * sigma**2))
            return found

        quotients = (quotient(np.ones_like(first), first) + quotient(length, second)) / 2
        for at in ORDERS:
            for pair, found in zip((removal, addition), of_quotients(quotients, weights, at), strict=True):
                assert found <= pair.delta(np.array([at]))[0] + 1e-5


@pytest.mark.parametrize(
    ("steps", "sigma"), [(1, 1.0), (3, 0.5), (7, 2.0), (10, 1.0), (64, 1.0), (100, 4.0), (12, 0.2)]
)
def test_the_mean_is_kept_and_the_variance_is_hardly_raised(steps: int, sigma: float) -> None:
    """So the variable is larger in the convex order, and not by much."""
    distance = allocation._distance(steps, sigma)
    total = allocation.sum_of(steps, sigma, distance)
    quotients = np.exp(total.logarithms(distance)) / steps
    assert total.masses.sum() == pytest.approx(1, abs=1e-12)
    assert total.masses @ quotients == pytest.approx(1, abs=1e-12)
    exact = math.expm1(1 / sigma**2) / steps
    if sigma >= 0.5:  # else the variance is that of an event that never happens
        assert exact <= total.masses @ (quotients - 1) ** 2 * (1 + 1e-9) <= exact * 1.01


@pytest.mark.parametrize(("steps", "sigma", "passes"), [(10, 2.0, 20), (5, 1.0, 4), (50, 1.0, 3)])
def test_several_passes_are_those_of_a_monte_carlo(steps: int, sigma: float, passes: int) -> None:
    """A million runs of sums of losses, drawn with and without the bucket."""
    random = np.random.default_rng(1)
    delta, runs = 1e-3, 200_000
    found = cost(BallsInBins(steps_per_pass=steps, noise_multiplier=sigma), passes, "add_remove", delta)
    of_removal, of_addition = [], []
    for _ in range(runs // 20_000):
        with_it, without = np.zeros(20_000), np.zeros(20_000)
        for _ in range(passes):
            z = random.standard_normal((20_000, steps))
            without += np.log(np.exp(z / sigma - 1 / (2 * sigma**2)).mean(axis=1))
            z[:, 0] += 1 / sigma  # every step is as likely as the others
            with_it += np.log(np.exp(z / sigma - 1 / (2 * sigma**2)).mean(axis=1))
        of_removal.append(-np.expm1(np.minimum(found - with_it, 0.0)))
        of_addition.append(-np.expm1(np.minimum(found + without, 0.0)))
    measured = [np.concatenate(each) for each in (of_removal, of_addition)]
    means, errors = [m.mean() for m in measured], [m.std() / math.sqrt(runs) for m in measured]
    worst = int(np.argmax(means))
    assert means[worst] <= delta + 5 * errors[worst]
    assert means[worst] >= 0.97 * delta - 5 * errors[worst]


def test_known_values() -> None:
    run = BallsInBins(steps_per_pass=10, noise_multiplier=2)
    assert cost(run, 20, "add_remove") == pytest.approx(3.158, abs=0.01)
    assert cost(run, 20, "replace") == pytest.approx(7.03, abs=0.03)


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
def test_a_pass_costs_at_most_one_step_with_all_buckets(adjacency: Adjacency) -> None:
    for sigma in (0.02, 0.06, 0.3, 1.0, 8.0):
        all_of_them = cost(BucketMechanism(sampling_rate=1, noise_multiplier=sigma), 3, adjacency)
        assert (
            cost(BallsInBins(steps_per_pass=6, noise_multiplier=sigma), 3, adjacency) <= all_of_them * 1.005
        )
        alone = BallsInBins(steps_per_pass=1, noise_multiplier=sigma)
        assert cost(alone, 3, adjacency) == all_of_them


def test_a_replacement_of_one_pass_is_not_below_that_of_two_known_attacks() -> None:
    """Contributions of opposite signs: the quotient of the two mixtures, by Monte Carlo."""
    random = np.random.default_rng(2)
    steps, sigma, delta = 8, 0.8, 1e-2
    found = cost(BallsInBins(steps_per_pass=steps, noise_multiplier=sigma), 1, "replace", delta)
    z = random.standard_normal((200_000, steps))
    z[:, 0] -= 1 / sigma
    loss = np.log(np.exp(-z / sigma).sum(axis=1)) - np.log(np.exp(z / sigma).sum(axis=1))
    assert float(-np.expm1(np.minimum(found - loss, 0.0)).mean()) <= delta


def test_with_fixed_numbers_a_replacement_counts_without_chance() -> None:
    from accountants import FixedNumber

    both = Ledger().record(BallsInBins(steps_per_pass=10, noise_multiplier=2), 2)
    both = both.record(FixedNumber(units=100, drawn=10, noise_multiplier=2), 3)
    told = both.guarantee(delta=1e-5, unit="class")
    assert any("as if it were known in which one" in caveat for caveat in told.caveats)
    assert math.isfinite(told.epsilon)


def test_what_was_left_out_is_paid_for() -> None:
    pair = Allocated(
        logs=np.array([-0.1, 0.1]), without=np.array([0.5, 0.5]), direction="remove", neglected=1e-3
    )
    assert pair.delta(np.array([1.0]))[0] == 1e-3
