"""The search for a strength, on accuracies that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpmi.study.bisection import FAR, AccuracyTarget, Answer, Ask, MatchedStrength, as_it_is, halfway, search

TARGET = AccuracyTarget(0.8)


@dataclass
class Measuring:
    """Answers a search from a function of strength and seed, and keeps what was asked."""

    accuracy: Callable[[float, int], float]
    asked: list[dict[float, int]] = field(default_factory=list)

    def to_the_end(self, going: Generator[Ask, Answer, MatchedStrength]) -> MatchedStrength:
        try:
            ask = next(going)
            while True:
                self.asked.append(dict(ask))
                ask = going.send(
                    {s: [self.accuracy(s, seed) for seed in range(seeds)] for s, seeds in ask.items()}
                )
        except StopIteration as end:
            found: MatchedStrength = end.value
            return found

    @property
    def strengths(self) -> list[float]:
        return list(dict.fromkeys(strength for ask in self.asked for strength in ask))


def logistic(strength: float, seed: int = 0) -> float:
    """Half of the accuracy at strength 3."""
    return 1 / (1 + strength / 3)


def test_finds_the_root_of_a_curve_that_is_known() -> None:
    measuring = Measuring(logistic)
    found = measuring.to_the_end(search(0.01, 100.0, target=AccuracyTarget(0.8, 0.002, 20), seeds=3))
    assert found.strength == pytest.approx(0.75, rel=0.02), "1 / (1 + 0.75 / 3) = 0.8"
    assert found.accuracies == (logistic(found.strength),) * 3
    assert found.note == ""
    assert found.trials == len(measuring.strengths) <= 20


def test_halves_geometrically_and_tries_both_ends_first() -> None:
    measuring = Measuring(logistic)
    measuring.to_the_end(search(0.01, 100.0, target=TARGET, seeds=1))
    assert measuring.asked[0] == {0.01: 1, 100.0: 1}
    # Above the target at 0.1, below it at 1 and at 10: sqrt(0.01 * 1), and so on.
    assert measuring.strengths[2:5] == [1.0, 0.1, 0.3162]


def test_smaller_may_be_stronger() -> None:
    found = Measuring(lambda s, _: 1 - logistic(s)).to_the_end(search(100.0, 0.01, target=TARGET, seeds=1))
    assert found.strength == pytest.approx(12, rel=0.1), "1 - 1 / (1 + 12 / 3) = 0.8"


def test_whole_numbers_stay_whole_and_end_at_neighbours() -> None:
    """Rank r reaches 1 - 1 / r: 0.75 at 4 and 0.8333 at 6; the target lies between 5 (0.8) and 6."""
    target = AccuracyTarget(0.82, 0.001, 20)
    measuring = Measuring(lambda rank, _: 1 - 1 / rank)
    found = measuring.to_the_end(search(64, 1, target=target, seeds=1))
    assert all(isinstance(strength, int) for strength in measuring.strengths)
    assert found.strength == 6
    assert found.note == "no strength lies between 6 and 5; using the nearer one"


def test_one_seed_decides_only_far_from_the_target() -> None:
    """Seed 0 alone is 3 points too good."""
    measuring = Measuring(lambda s, seed: logistic(s) + (0.03 if seed == 0 else -0.015))
    found = measuring.to_the_end(search(0.01, 100.0, target=TARGET, seeds=3))
    for ask in measuring.asked:
        for strength, seeds in ask.items():
            if seeds == 1:
                continue
            assert abs(logistic(strength) + 0.03 - 0.8) < 0.005 + FAR, "asked for all without need"
    assert {strength for ask in measuring.asked for strength, seeds in ask.items() if seeds == 3}
    assert found.accuracy == pytest.approx(logistic(found.strength))
    assert abs(found.accuracy - 0.8) <= 0.005


@pytest.mark.parametrize(
    ("level", "strength", "note"),
    [
        (0.79, 0.1, "the weakest strength of the range is already below the target"),
        (0.81, 10.0, "the strongest strength of the range is still above the target"),
        (0.799, 0.1, ""),
        (0.801, 10.0, ""),
    ],
)
def test_a_target_out_of_range_is_said_and_by_all_seeds(level: float, strength: float, note: str) -> None:
    found = Measuring(lambda *_: level).to_the_end(search(0.1, 10.0, target=TARGET, seeds=4))
    assert (found.strength, found.note, len(found.accuracies)) == (strength, note, 4)


def test_a_target_that_one_lucky_seed_meets_is_not_met() -> None:
    """The weakest end seems to be above by its first seed, and is below by all."""
    found = Measuring(lambda _, seed: 0.84 if seed == 0 else 0.70).to_the_end(
        search(0.1, 10.0, target=TARGET, seeds=5)
    )
    assert found.note == "the weakest strength of the range is already below the target"


def test_the_best_that_was_seen_is_kept_when_trials_run_out() -> None:
    """A cliff: no strength is within the tolerance."""
    measuring = Measuring(lambda s, _: 0.83 if s < 2 else 0.7)
    found = measuring.to_the_end(search(0.1, 10.0, target=TARGET, seeds=2))
    assert found.trials == len(measuring.strengths) == TARGET.trials
    assert found.accuracies == (0.83, 0.83)
    assert found.note == "target not met in 8 trials; using the nearest strength"


@given(
    middle=st.floats(0.05, 20),
    steep=st.floats(0.5, 8),
    noise=st.floats(0, 0.1),
    seeds=st.integers(1, 4),
    accuracy=st.floats(0.15, 0.9),
)
def test_what_is_said_is_true_however_noisy(
    middle: float, steep: float, noise: float, seeds: int, accuracy: float
) -> None:
    def measure(strength: float, seed: int) -> float:
        random = np.random.default_rng([seed, int(strength * 1e6)])
        return float(1 / (1 + (strength / middle) ** steep) + noise * random.standard_normal())

    target = AccuracyTarget(accuracy)
    measuring = Measuring(measure)
    found = measuring.to_the_end(search(0.01, 100.0, target=target, seeds=seeds))
    assert found.accuracies == tuple(measure(found.strength, seed) for seed in range(seeds))
    assert (found.note == "") == (abs(found.accuracy - accuracy) <= target.tolerance)
    assert 0.01 <= found.strength <= 100
    assert found.trials <= target.trials


def test_a_defence_without_strength_is_measured_by_all_seeds() -> None:
    found = Measuring(lambda _, seed: 0.9 + seed / 100).to_the_end(as_it_is(math.nan, seeds=3))
    assert math.isnan(found.strength)
    assert found.accuracies == pytest.approx((0.9, 0.91, 0.92))
    assert found.note == ""


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_halfway_lies_between(one: float, other: float) -> None:
    slack = 1e-3  # of the digits that are kept
    assert min(one, other) * (1 - slack) <= halfway(one, other) <= max(one, other) * (1 + slack)
    assert halfway(-one, -other) == -halfway(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), r"accuracy must be in \(0, 1\), a share, not a percentage; got 0"),
        ((97.0,), r"accuracy must be in \(0, 1\), a share, not a percentage; got 97"),
        ((math.nan,), r"accuracy must be in \(0, 1\)"),
        ((0.9, 0.0), r"tolerance must be in \(0, 0.5\), a difference of accuracies; got 0"),
        ((0.9, 0.5), r"tolerance must be in \(0, 0.5\)"),
        ((0.9, 0.01, 2), r"trials must be at least 3, two for the ends of the range; got 2"),
    ],
)
def test_impossible_targets(arguments: tuple[float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AccuracyTarget(*arguments)
