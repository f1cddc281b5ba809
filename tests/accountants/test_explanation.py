"""Every accountant's answer for one run: the numbers, and what is said of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from functools import cache
from typing import Any

import pytest

from accountants import ADJACENCIES, BucketMechanism, Ledger
from accountants.explanation import Explanation, explain

ACCOUNTANTS = ("tight", "lemma3", "theorem1", "opacus-rdp", "opacus-prv", "opacus-gdp")
Run = tuple[float, float, int, float]
PAPER: Run = (0.2, 1.6, 200, 1e-3)
SMALL_RATE: Run = (0.01, 1.0, 1000, 1e-5)
HARDLY_ANY_NOISE: Run = (0.2, 5e-4, 3, 1e-5)


@cache
def rows(run: Run) -> dict[tuple[str, str], Explanation]:
    q, sigma, steps, delta = run
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(sampling_rate=q, noise_multiplier=sigma, steps=steps, delta=delta, unit="class")
    assert [(row.accountant, row.adjacency) for row in found] == [
        (accountant, adjacency) for accountant in ACCOUNTANTS for adjacency in ADJACENCIES
    ]
    assert {(row.unit, row.delta, row.steps) for row in found} == {("class", delta, steps)}
    return {(row.accountant, row.adjacency): row for row in found}


def value(row: Explanation) -> float:
    assert row.epsilon is not None, row.reason
    return row.epsilon


@pytest.mark.parametrize(
    ("run", "published"),
    [
        (PAPER, {"tight": (15.924, 7.448), "theorem1": (18.585, 9.2925)}),
        (SMALL_RATE, {"tight": (2.843, 1.828), "theorem1": (4.292, 2.146)}),
    ],
)
def test_published_values(run: Run, published: dict[str, tuple[float, float]]) -> None:
    for accountant, values in published.items():
        for adjacency, expected in zip(ADJACENCIES, values, strict=True):
            assert value(rows(run)[accountant, adjacency]) == pytest.approx(expected, abs=1e-3)


def test_what_is_a_bound_and_which_number_to_state() -> None:
    verdicts = {key: (row.is_bound, row.is_smallest) for key, row in rows(PAPER).items()}
    bound, smallest, none = (True, False), (True, True), (False, False)
    assert list(verdicts.values()) == [
        *(smallest, smallest),
        *(bound, bound),
        *(none, none),
        *(none, bound),
        *(none, bound),
        *(none, none),
    ]


def test_theorem1_names_the_conditions_that_fail_with_their_numbers() -> None:
    reason = rows(PAPER)["theorem1", "replace"].reason
    assert "fails here: q < 1/(16 sigma) (q = 0.2, 1/(16 sigma) = 0.03906)" in reason
    assert "right-hand side = 0.08839" in reason
    assert "kappa" not in reason, "that condition holds"
    assert "e^x - 1 <= x (eq. (7)), which is false" in reason
    # 18.585 - 15.924
    assert reason.endswith("; 2.66 above the tight epsilon here")


def test_theorem1_is_no_bound_where_all_its_conditions_hold() -> None:
    row = rows((0.02, 1.0, 10_000, 1e-2))["theorem1", "replace"]
    assert value(row) == pytest.approx(17.17, abs=0.005)
    assert not row.is_bound
    assert "every condition that the paper states holds here" in row.reason
    # 17.98 - 17.17
    assert row.reason.endswith("below the tight epsilon here")
    assert "; 0.81" in row.reason or "; 0.80" in row.reason


def test_what_cannot_be_computed_is_said_and_the_rest_is_answered() -> None:
    found = rows(HARDLY_ANY_NOISE)
    tight = found["tight", "replace"]
    assert (tight.epsilon, tight.is_bound) == (None, False)
    assert tight.reason.startswith("not computed: noise_multiplier must be at least 0.001")
    assert "its grid would span losses up to" in found["opacus-prv", "add_remove"].reason
    assert "between 0 and 500" in found["opacus-gdp", "add_remove"].reason
    for adjacency in ADJACENCIES:
        moments = found["lemma3", adjacency]
        assert moments.is_smallest
        step = BucketMechanism(sampling_rate=0.2, noise_multiplier=5e-4)
        asked = (
            Ledger()
            .record(step, 3)
            .guarantee(delta=1e-5, unit="class", adjacency=adjacency, accountant="lemma3")
        )
        assert moments.epsilon == asked.epsilon


@pytest.mark.parametrize(
    ("sigma", "steps", "epsilon", "word"),
    [(1.6, 0, 0.0, "no step"), (0.0, 5, math.inf, "noise_multiplier is 0")],
)
@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
def test_the_ends(sigma: float, steps: int, epsilon: float, word: str) -> None:
    found = explain(sampling_rate=0.2, noise_multiplier=sigma, steps=steps, delta=1e-3, unit="class")
    for row in found:
        applies = row.adjacency == "add_remove" or not row.accountant.startswith("opacus")
        assert row.epsilon == (epsilon if applies else None)
        assert row.is_bound is (applies and row.accountant not in ("theorem1", "opacus-gdp"))
        assert row.is_smallest is (row.accountant == "tight")
        assert (word in row.reason) is applies
    assert float(found[0].to_dict()["epsilon"]) == epsilon
    assert json.loads(json.dumps([row.to_dict() for row in found], allow_nan=False))


def test_without_opacus_the_rest_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    found = explain(sampling_rate=0.2, noise_multiplier=1.6, steps=10, delta=1e-3, unit="class")
    for row in found:
        if row.accountant.startswith("opacus"):
            assert row.epsilon is None
            assert row.adjacency == "replace" or "ModuleNotFoundError" in row.reason
        else:
            assert value(row) > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling_rate": 1.5}, "sampling_rate must be in"),
        ({"noise_multiplier": -1}, "noise_multiplier must be at least 0"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"delta": 1}, "delta must be in"),
        ({"unit": " "}, "unit must say"),
        ({"buckets": 0}, "buckets must be at least 1"),
    ],
)
def test_a_wrong_request_is_refused(wrong: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {"sampling_rate": 0.2, "noise_multiplier": 1.6, "steps": 10, "delta": 1e-3}
    with pytest.raises(ValueError, match=message):
        explain(**{**request, "unit": "class", **wrong})


def test_a_delta_too_large_for_the_buckets_is_said_once() -> None:
    with pytest.warns(UserWarning, match="K = 40 buckets") as caught:
        explain(sampling_rate=0.2, noise_multiplier=1.6, steps=10, delta=0.1, unit="class", buckets=40)
    assert len(caught) == 1


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "opacus", "dp_accounting")
    program = f"import sys, accountants.explanation; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
