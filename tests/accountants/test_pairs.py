"""Which mechanisms are Poisson sampling, and that an unknown one has no epsilon."""

from __future__ import annotations

import pytest

from accountants import (
    ADJACENCIES,
    Adjacency,
    BallsInBins,
    BucketMechanism,
    FixedNumber,
    TruncatedPoisson,
    pairs,
)
from accountants.mechanism import Mechanism, SeveralBuckets

FULL = BucketMechanism(sampling_rate=1, noise_multiplier=2)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_poisson_sampling_stays(adjacency: Adjacency) -> None:
    for mechanism in (
        BucketMechanism(sampling_rate=0.1, noise_multiplier=2),
        SeveralBuckets(sampling_rate=0.1, noise_multiplier=2, buckets_per_unit=3),
    ):
        assert pairs.plain(mechanism, adjacency) is mechanism


@pytest.mark.parametrize(
    ("mechanism", "adjacency", "expected"),
    [
        (FixedNumber(units=5, drawn=5, noise_multiplier=2), "replace", FULL),
        (FixedNumber(units=5, drawn=4, noise_multiplier=2), "replace", None),
        (TruncatedPoisson(units=5, sampling_rate=1, most=5, noise_multiplier=2), "replace", FULL),
        (TruncatedPoisson(units=5, sampling_rate=1, most=5, noise_multiplier=2), "add_remove", None),
        (TruncatedPoisson(units=5, sampling_rate=1, most=6, noise_multiplier=2), "add_remove", FULL),
        (BallsInBins(steps_per_pass=1, noise_multiplier=2), "add_remove", FULL),
        (BallsInBins(steps_per_pass=4, noise_multiplier=2), "add_remove", None),
        (BallsInBins(steps_per_pass=4, noise_multiplier=2), "replace", FULL),
    ],
)
def test_others_are_poisson_sampling_at_their_ends(
    mechanism: Mechanism, adjacency: Adjacency, expected: Mechanism | None
) -> None:
    assert pairs.plain(mechanism, adjacency) == (expected or mechanism)


def test_each_has_pairs_and_plain_poisson_sampling_has_none() -> None:
    def number(mechanism: Mechanism, adjacency: Adjacency) -> int:
        return len(pairs.of(mechanism, adjacency, most_noise=1e6, least_rate=1e-10))

    assert number(FULL, "replace") == 0
    assert number(FixedNumber(units=5, drawn=4, noise_multiplier=2), "replace") == 1
    truncated = TruncatedPoisson(units=5, sampling_rate=0.5, most=3, noise_multiplier=2)
    assert (number(truncated, "replace"), number(truncated, "add_remove")) == (1, 2)
    assert number(BallsInBins(steps_per_pass=4, noise_multiplier=2), "add_remove") == 2


def test_an_unknown_mechanism_has_no_pair() -> None:
    class Unknown:
        noise_multiplier = 1.0

    with pytest.raises(TypeError, match="no pair of distributions is known"):
        pairs.of(Unknown(), "replace", most_noise=1e6, least_rate=1e-10)  # type: ignore[arg-type]
