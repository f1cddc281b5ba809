"""The verdict: hopeless or not, what would rescue it, and the figures behind the limits."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from accountants import Ledger, epsilon, reconstruction_bound
from accountants.planner import PlanTable, plan
from accountants.verdict import HOPELESS, USABLE, Verdict, rating, readable, verdict

pytestmark = pytest.mark.usefixtures("calibrated_once")

ROOT = Path(__file__).parents[2]


def ask(class_sizes: list[int], **changed: Any) -> PlanTable:
    arguments: dict[str, Any] = {
        "target_epsilon": 8.0,
        "delta": 1e-4,
        "parameters": 7706,
        "sampling_rates": (0.2,),
        "steps": (200,),
    }
    return plan(class_sizes, **{**arguments, **changed})


def text(judged: Verdict) -> str:
    return " ".join(judged.sentences)


class TestTenClasses:
    """MNIST: far too few buckets, and enough records in each to divide them."""

    @pytest.fixture
    def judged(self) -> Verdict:
        return verdict(ask([6000] * 10))

    def test_class_level_is_hopeless(self, judged: Verdict) -> None:
        assert (judged.class_level.clusters_per_class, judged.class_level.buckets) == (1, 10)
        assert judged.class_level.noise_norm > 100
        assert (
            "Class-level DP at epsilon 8 (delta = 0.0001, replace, tight) is hopeless" in judged.sentences[0]
        )

    def test_the_rescue_put_back_into_the_planner_is_usable(self, judged: Verdict) -> None:
        assert judged.rescue is not None
        clusters = judged.rescue.clusters_per_class
        fewer, enough = ask([6000] * 10, clusters_per_class=(clusters - 1, clusters)).best
        assert enough == judged.rescue
        assert enough.noise_norm <= USABLE < fewer.noise_norm
        assert f"with at least {clusters} per class ({10 * clusters:,} buckets of " in judged.sentences[1]

    def test_it_bounds_accuracy_by_the_reconstruction_bound(self, judged: Verdict) -> None:
        row = judged.class_level
        most = reconstruction_bound(Ledger().record(row.mechanism, row.steps), [0.1])[0]
        assert 0.1 < most < 1
        said = judged.sentences[3].partition("At kappa = 1/10 that is ")[2].partition(" %.")[0]
        assert 100 * most <= float(said) < 100 * most + 0.01, "a bound is rounded up"
        assert "kappa = 1/10 is an approximation for many classes" in judged.sentences[3]

    def test_a_head_on_public_features_needs_fewer_subclasses(self, judged: Verdict) -> None:
        sentence = judged.sentences[2]
        assert "a linear head on 64 features of a public network has 650 for 10 classes" in sentence
        clusters = int(sentence.partition("and then ")[2].split()[0])
        fewer, enough = ask([6000] * 10, parameters=650, clusters_per_class=(clusters - 1, clusters)).best
        assert enough.noise_norm <= USABLE < fewer.noise_norm
        small = verdict(ask([6000] * 10, parameters=650))
        assert not any("Train fewer parameters" in sentence for sentence in small.sentences)

    def test_it_is_no_promise_about_a_class(self, judged: Verdict) -> None:
        assert judged.rescue is not None
        clusters = judged.rescue.clusters_per_class
        setting = judged.rescue
        whole = epsilon(
            sampling_rate=setting.mechanism.sampling_rate,
            noise_multiplier=setting.mechanism.noise_multiplier,
            steps=setting.steps,
            delta=setting.guarantee.delta,
            unit="class",
            buckets_per_unit=clusters,
        ).epsilon
        assert whole > 8 * clusters / 2
        assert f"for a class of {clusters} subclasses the same run has epsilon {readable(whole)}." in text(
            judged
        )
        assert "conditional on the partition" in text(judged)
        assert "rule of thumb" in judged.sentences[-1]


def test_152_people_can_be_divided_almost_to_records() -> None:
    # Faces94: class-DP keeps 26.7 % of accuracy at noise .8, so it is hopeless even at that epsilon of 112.5.
    judged = verdict(
        ask([190] * 152, target_epsilon=112.5, delta=1e-2, parameters=638_552, sampling_rates=(0.33,))
    )
    assert judged.class_level.noise_norm > HOPELESS
    judged = verdict(ask([190] * 152, parameters=638_552))
    assert judged.rescue is not None
    assert 190 >= judged.rescue.clusters_per_class > 38
    assert "close to record-level DP" in text(judged)


def test_classes_that_are_too_small_are_not_rescued() -> None:
    table = ask([40, 39, *[50] * 28], target_epsilon=1.0, parameters=638_552)
    judged = verdict(table)
    assert judged.rescue is None
    needed = table.fewest_clusters(USABLE)
    assert needed > 39
    said = judged.sentences[1]
    assert "No number of subclasses makes it usable" in said
    assert "class 1, the smallest, has 39 records" in said
    # What it says would help, does.
    assert f"{needed:,} records in every class" in said
    assert verdict(ask([needed] * 30, target_epsilon=1.0, parameters=638_552)).rescue is not None
    affordable = int(said.split("a model of at most ")[1].split(" ")[0].replace(",", ""))
    assert verdict(ask([39] * 30, target_epsilon=1.0, parameters=affordable)).rescue is not None
    assert verdict(ask([39] * 30, target_epsilon=1.0, parameters=affordable + 1)).rescue is None


def test_many_classes_need_no_rescue() -> None:
    judged = verdict(ask([3] * 5000))
    assert judged.rescue == judged.class_level
    assert "is usable" in judged.sentences[0]
    assert "make it usable" not in text(judged)
    assert "subclass" not in text(judged)


def test_a_whole_class_that_the_accountant_cannot_compose() -> None:
    table = ask([2] * 40, target_epsilon=0.5, clusters_per_class=(1, 2), parameters=1)
    beyond = dataclasses.replace(table, delta=1e-12)
    assert "a class of 2 subclasses has no epsilon here" in text(verdict(beyond))


def test_a_delta_that_is_too_large_for_so_many_buckets_is_named() -> None:
    judged = verdict(ask([6000] * 10, delta=1e-2, clusters_per_class=(1, 5, 10, 50)))
    assert "delta = 0.01 is not below 1/K for K = 100 buckets (10 per class) or more" in text(judged)
    assert "not below 1/K" not in text(verdict(ask([6000] * 10)))


def test_the_limits_are_those_of_the_committed_studies() -> None:
    parameters = {"mnist": 7706, "faces94": 638_552}
    undefended: dict[str, list[float]] = {}
    kept: list[tuple[float, float]] = []
    rows = []
    for study in ("mnist", "mnist-clusters", "faces94"):
        rows += pd.read_parquet(ROOT / "docs/results" / study / "trials.parquet").to_dict("records")
    for row in rows:
        if row["defense"] == "none":
            undefended.setdefault(row["data"], []).append(float(row["test_accuracy"]))
    for row in rows:
        if row["defense"] in ("class-dp", "subclass-dp"):
            signal = float(row["sampling_rate"]) * float(row["buckets"])
            noise = float(row["noise_multiplier"]) * math.sqrt(parameters[row["data"]]) / signal
            best = max(undefended[row["data"]])
            kept.append((noise, float(row["test_accuracy"]) / best))
            assert 137 <= int(row["steps"]) <= 1200
    assert len(kept) > 20
    assert min(share for noise, share in kept if noise <= USABLE) > 0.9
    assert max(share for noise, share in kept if noise >= HOPELESS) < 0.75
    assert all(0.65 < share < 0.95 for noise, share in kept if USABLE < noise < HOPELESS)


def test_the_limits_themselves() -> None:
    assert (rating(USABLE), rating(math.nextafter(HOPELESS, 0)), rating(HOPELESS)) == (
        "usable",
        "doubtful",
        "hopeless",
    )
