"""What `guarantee` and `epsilon` check before they query any accountant."""

import json
import math
from typing import Any

import pytest

from accountants import (
    ACCOUNTANTS,
    ADJACENCIES,
    Accountant,
    BallsInBins,
    Bound,
    BucketMechanism,
    FixedNumber,
    Guarantee,
    Ledger,
    TruncatedPoisson,
)
from accountants.mechanism import Mechanism, SeveralBuckets

STEP = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)


def ask(**changed: Any) -> Guarantee:
    arguments: dict[str, Any] = {"delta": 1e-3, "unit": "class", "accountant": "theorem1"}
    return Ledger().record(STEP, 200).guarantee(**{**arguments, **changed})


@pytest.mark.parametrize("accountant", ACCOUNTANTS.names())
def test_one_step_without_noise_among_others_costs_everything(accountant: str) -> None:
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        bare = BucketMechanism(sampling_rate=0.2, noise_multiplier=0.0)
    ledger = Ledger(((STEP, 200), (bare, 1)))
    assert ledger.noiseless
    assert ledger.guarantee(delta=1e-3, unit="class", accountant=accountant).epsilon == math.inf
    assert not Ledger(((STEP, 200),)).noiseless


@pytest.mark.parametrize("delta", [0, 1, -0.1, 2, math.nan])
def test_delta_outside_its_range_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must be"):
        ask(delta=delta)


@pytest.mark.parametrize("delta", [True, "1e-5", None])
def test_delta_must_be_a_number(delta: Any) -> None:
    with pytest.raises(TypeError, match="delta must be a real number"):
        ask(delta=delta)


@pytest.mark.parametrize("unit", ["", "  ", None, 3])
def test_an_epsilon_without_its_unit_is_refused(unit: Any) -> None:
    with pytest.raises(ValueError, match="unit must say"):
        ask(unit=unit)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown accountant 'moments' \(known: tight, lemma3, theorem1\)"):
        ask(accountant="moments")
    with pytest.raises(ValueError, match="replace, add_remove, got 'bounded'"):
        ask(adjacency="bounded")


@pytest.mark.parametrize("delta", [0.01, 0.02])
def test_a_delta_of_one_over_the_number_of_buckets_warns(delta: float) -> None:
    with pytest.warns(UserWarning, match="K = 100 buckets"):
        answer = ask(delta=delta, buckets=100)
    assert any("K = 100 buckets" in caveat for caveat in answer.caveats)


@pytest.mark.filterwarnings("error")
def test_a_smaller_delta_does_not_warn() -> None:
    ask(delta=0.0099, buckets=100)
    ask(delta=0.5)


@pytest.mark.parametrize("buckets", [0, -1, 2.5, True])
def test_buckets_must_be_a_count(buckets: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="buckets must be"):
        ask(buckets=buckets)


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize("accountant", ACCOUNTANTS.names())
def test_every_answer_carries_its_meaning(accountant: str, adjacency: Any) -> None:
    answer = ask(accountant=accountant, adjacency=adjacency)
    assert answer.is_guarantee is (accountant != "theorem1")
    fields = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert fields["epsilon"] == answer.epsilon
    assert {key: fields[key] for key in ("accountant", "adjacency", "unit", "delta", "steps")} == {
        "accountant": accountant,
        "adjacency": adjacency,
        "unit": "class",
        "delta": 1e-3,
        "steps": 200,
    }
    assert ("conditions" in fields) is (accountant == "theorem1")
    sentence = str(answer)
    for part in ("class-level", "0.001", accountant, "200 steps"):
        assert part in sentence
    assert ("replaced" if adjacency == "replace" else "added or removed") in sentence
    assert sentence.startswith("Not a guarantee") is (accountant == "theorem1")


@pytest.mark.parametrize("accountant", ["lemma3", "theorem1"])
def test_accountants_of_one_bucket_refuse_larger_units(accountant: str) -> None:
    with pytest.raises(ValueError, match=f"'{accountant}' covers units that own one bucket, and .* is 2"):
        ask(accountant=accountant, buckets_per_unit=2)
    assert ask(accountant=accountant, buckets_per_unit=1) == ask(accountant=accountant)


def test_larger_units_are_named_in_the_answer() -> None:
    answer = ask(accountant="tight", buckets_per_unit=3, unit="user")
    assert "for every user that owns at most 3 of the separately sampled buckets" in answer.caveats
    assert answer.epsilon > ask(accountant="tight").epsilon


def test_a_unit_owns_at_most_all_buckets() -> None:
    with pytest.raises(ValueError, match="buckets_per_unit must be at most 4, the number of buckets, got 5"):
        ask(accountant="tight", buckets=4, buckets_per_unit=5)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_unit_owns_a_bucket(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"buckets_per_unit must be at least 1, got {wrong}"):
        ask(accountant="tight", buckets_per_unit=wrong)
    with pytest.raises(TypeError, match=r"buckets_per_unit must be an integer, got 1\.5"):
        ask(accountant="tight", buckets_per_unit=1.5)


def test_a_ledger_holds_what_was_released_and_not_how_it_looks_to_a_larger_unit() -> None:
    seen = SeveralBuckets(sampling_rate=0.2, noise_multiplier=1.6, buckets_per_unit=3)
    with pytest.raises(TypeError, match="runs must hold"):
        Ledger(((seen, 3),))


OTHERS: list[Mechanism] = [
    FixedNumber(units=10, drawn=2, noise_multiplier=1),
    TruncatedPoisson(units=10, sampling_rate=0.2, most=3, noise_multiplier=1),
    BallsInBins(steps_per_pass=5, noise_multiplier=1),
]


@pytest.mark.parametrize("mechanism", OTHERS)
@pytest.mark.parametrize("accountant", ["lemma3", "theorem1"])
def test_an_accountant_refuses_draws_that_it_does_not_cover(mechanism: Mechanism, accountant: str) -> None:
    run = Ledger().record(STEP, 3).record(mechanism, 2)
    with pytest.raises(
        ValueError, match=f"{accountant!r} does not cover {type(mechanism).__name__}.*'tight'"
    ):
        run.guarantee(delta=1e-3, unit="class", accountant=accountant)


def test_an_accountant_covers_poisson_sampling_alone_unless_it_says_more() -> None:
    plugin = Accountant(name="other", description="", bound=lambda totals, **_: Bound(0.0), is_guarantee=True)
    assert plugin.mechanisms == (BucketMechanism,)
    assert all(type(each) in ACCOUNTANTS.get("tight").mechanisms for each in (STEP, *OTHERS))


@pytest.mark.parametrize("mechanism", OTHERS)
def test_larger_units_are_refused_for_other_draws(mechanism: Mechanism) -> None:
    with pytest.raises(ValueError, match="covered for Poisson sampling only"):
        Ledger().record(mechanism).guarantee(delta=1e-3, unit="user", buckets_per_unit=2)
