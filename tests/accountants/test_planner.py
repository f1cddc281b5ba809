"""The planner: each figure of a row by hand, and the target met by the accountant asked anew."""

import json
import math
from typing import Any

import numpy as np
import pytest

from accountants import epsilon
from accountants.planner import CLUSTERS_PER_CLASS, SAME_NOISE, PlanRow, PlanTable, plan

pytestmark = pytest.mark.usefixtures("calibrated_once")

MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
"""Records per digit; 60,000 in all."""


def ask(class_sizes: Any = MNIST, **changed: Any) -> PlanTable:
    arguments: dict[str, Any] = {
        "target_epsilon": 8.0,
        "delta": 1e-4,
        "parameters": 7706,
        "sampling_rates": (0.2,),
        "steps": (200,),
    }
    return plan(class_sizes, **{**arguments, **changed})


@pytest.fixture(scope="module")
def table(calibrated_once: None) -> PlanTable:
    return ask(sampling_rates=(0.5, 0.1), steps=(300, 100), clusters_per_class=(50, 1))


def test_there_is_a_row_for_every_combination_quietest_first(table: PlanTable) -> None:
    asked = {(c, q, t) for c in (1, 50) for q in (0.1, 0.5) for t in (100, 300)}
    assert {(r.clusters_per_class, r.mechanism.sampling_rate, r.steps) for r in table.rows} == asked
    assert len(table.rows) == len(asked)
    assert [row.clusters_per_class for row in table.rows] == [1] * 4 + [50] * 4
    for clusters in (1, 50):
        noises = [row.noise_norm for row in table.rows if row.clusters_per_class == clusters]
        assert noises == sorted(noises)


def test_every_row_meets_the_target_and_not_by_much(table: PlanTable) -> None:
    for row in table.rows[:4]:  # the others differ in K, which costs nothing
        again = epsilon(
            sampling_rate=row.mechanism.sampling_rate,
            noise_multiplier=row.mechanism.noise_multiplier,
            steps=row.steps,
            delta=1e-4,
            unit="class",
        )
        assert 0.99 * 8 <= again.epsilon <= 8
        assert row.guarantee.epsilon == again.epsilon
    for row in table.rows:
        told = row.guarantee
        assert told.unit == ("class" if row.clusters_per_class == 1 else "subclass")
        assert (told.delta, told.adjacency, told.accountant) == (1e-4, "replace", "tight")
        assert told.is_guarantee
        assert told.steps == row.steps


def test_the_noise_that_a_target_needs_does_not_depend_on_the_buckets(table: PlanTable) -> None:
    noise: dict[tuple[float, int], set[float]] = {}
    for row in table.rows:
        key = (row.mechanism.sampling_rate, row.steps)
        noise.setdefault(key, set()).add(row.mechanism.noise_multiplier)
    assert [len(values) for values in noise.values()] == [1] * 4


def test_the_figures_of_a_row_by_hand() -> None:
    (row,) = ask(clusters_per_class=(50,), target_epsilon=15.93, delta=1e-3).rows
    # The committed MNIST study: q = .2, sigma = 1.6, 200 steps, K = 500.
    assert row.mechanism.noise_multiplier == pytest.approx(1.6, rel=2e-3)
    assert (row.buckets, row.records, row.parameters) == (500, 60_000, 7706)
    assert row.noise_to_signal == pytest.approx(1.6 / (0.2 * 500), rel=2e-3)
    assert row.noise_norm == pytest.approx(1.4045, rel=2e-3)
    assert row.empty_draw == pytest.approx(0.8**500)
    assert row.records_per_step == pytest.approx(12_000)
    assert row.passes == pytest.approx(40)
    fields = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    assert fields["records_in_all"] == pytest.approx(40 * 60_000)
    assert (fields["unit"], fields["accountant"], fields["delta"]) == ("subclass", "tight", 1e-3)
    for name in ("noise_to_signal", "noise_norm", "empty_draw", "records_per_step", "passes", "buckets"):
        assert fields[name] == getattr(row, name)


def test_noise_and_empty_draws_are_those_of_a_simulation() -> None:
    (row,) = ask([5, 7, 6, 6], parameters=50, clusters_per_class=(2,)).rows
    generator = np.random.default_rng(0)
    draws = 40_000
    drawn = generator.random((draws, row.buckets)) < row.mechanism.sampling_rate
    assert np.mean(~drawn.any(axis=1)) == pytest.approx(row.empty_draw, abs=0.01)
    assert 0.1 < row.empty_draw < 0.2, "a probability that a simulation can tell from 0"
    # Clip norm 1, every bucket's gradient the same unit vector: the averaged step is its sum over qK.
    divisor = row.mechanism.sampling_rate * row.buckets
    signal = drawn.sum(axis=1).mean() / divisor
    noise = generator.normal(scale=row.mechanism.noise_multiplier, size=(4000, row.parameters)) / divisor
    assert signal == pytest.approx(1, abs=0.01)
    assert noise.std() == pytest.approx(row.noise_to_signal, rel=0.02)
    assert np.linalg.norm(noise, axis=1).mean() == pytest.approx(row.noise_norm, rel=0.02)


def test_the_best_is_the_cheapest_of_the_quietest(table: PlanTable) -> None:
    def noise(row: PlanRow) -> float:
        return row.noise_norm

    assert [row.clusters_per_class for row in table.best] == [1, 50]
    for best, rows in zip(table.best, (table.rows[:4], table.rows[4:]), strict=True):
        as_quiet = [row for row in rows if noise(row) <= SAME_NOISE * noise(min(rows, key=noise))]
        assert len(as_quiet) == 2, "q = 0.1 and q = 0.5 at 100 steps"
        assert best == min(as_quiet, key=lambda row: row.passes)
    assert [(s.steps, s.mechanism.sampling_rate) for s in table.best_by_steps] == [(100, 0.1), (300, 0.1)]


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.68, 3.0, 1000.0])
def test_the_fewest_clusters_for_a_noise(limit: float) -> None:
    table = ask()
    clusters = table.fewest_clusters(limit)
    assert table.row(table.best_setting, clusters).noise_norm <= limit
    assert clusters == 1 or table.row(table.best_setting, clusters - 1).noise_norm > limit
    # A noise that is met exactly takes no cluster more.
    exactly = table.row(table.best_setting, 37).noise_norm
    assert table.fewest_clusters(exactly) == 37


def test_add_remove_needs_less_noise() -> None:
    replace = ask().best_setting
    removed = ask(adjacency="add_remove").best_setting
    assert removed.guarantee.adjacency == "add_remove"
    assert removed.mechanism.noise_multiplier < 0.7 * replace.mechanism.noise_multiplier


def test_class_sizes_may_be_an_array_or_named() -> None:
    listed = ask([190, 180, 200])
    assert ask(np.array([190, 180, 200])) == listed
    named = ask({"anna": 190, "bert": 180, "carl": 200})
    assert named.rows == listed.rows
    assert named.smallest_class == ("bert", 180)
    assert listed.smallest_class == ("class 1", 180)


def test_clusters_that_a_small_class_cannot_have_are_left_out_by_default_only() -> None:
    assert ask([30, 900]).clusters_per_class == tuple(c for c in CLUSTERS_PER_CLASS if c <= 30)
    assert ask([1, 900]).clusters_per_class == (1,)
    with pytest.raises(
        ValueError, match="clusters_per_class must be at most 30, got 50: class 0 is the smallest"
    ):
        ask([30, 900], clusters_per_class=(1, 50))


def test_one_calibration_per_setting_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    ask(sampling_rates=(0.5,), steps=(100, 300), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_sizes": []}, "class_sizes must name at least 2 classes, got 0"),
        ({"class_sizes": [6000]}, "class_sizes must name at least 2 classes, got 1"),
        ({"class_sizes": [6000, 0]}, "the size of class 1 must be at least 1, got 0"),
        ({"class_sizes": {"anna": -3, "bert": 4}}, "the size of anna must be at least 1, got -3"),
        ({"class_sizes": [6000, 5.5]}, "the size of class 1 must be an integer, got 5.5"),
        ({"target_epsilon": 0}, "target_epsilon must be above 0"),
        ({"target_epsilon": math.nan}, "target_epsilon must be finite"),
        ({"delta": 1}, r"delta must be in \(0, 1\)"),
        ({"adjacency": "bounded"}, "adjacency must be one of replace, add_remove"),
        ({"parameters": 0}, "parameters must be at least 1, got 0"),
        ({"parameters": 1e4}, "parameters must be an integer"),
        ({"clusters_per_class": ()}, "clusters_per_class must name at least one value"),
        ({"clusters_per_class": (0, 1)}, "clusters_per_class must be at least 1, got 0"),
        ({"sampling_rates": ()}, "sampling_rates must name at least one value"),
        ({"sampling_rates": (0.2, 1.2)}, r"sampling_rate must be in \(0, 1\], got 1.2"),
        ({"steps": ()}, "steps must name at least one value"),
        ({"steps": (200, 0)}, "steps must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ask(**changed)
