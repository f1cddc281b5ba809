import math
import warnings
from typing import Any

import numpy as np
import pytest

from accountants import BallsInBins, BucketMechanism, FixedNumber, Ledger, TruncatedPoisson, epsilon
from accountants.mechanism import SAMPLERS, SeveralBuckets, for_units, poisson, sampler, steps_of


@pytest.mark.parametrize("value", [0, -0.1, 1.5, math.nan, math.inf])
def test_sampling_rate_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"sampling_rate must be .*got"):
        BucketMechanism(sampling_rate=value, noise_multiplier=1.0)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_noise_multiplier_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"noise_multiplier must be .*got"):
        BucketMechanism(sampling_rate=0.5, noise_multiplier=value)


@pytest.mark.parametrize("value", [True, "0.5", None, 0.5j])
@pytest.mark.parametrize("name", ["sampling_rate", "noise_multiplier"])
def test_what_is_not_a_number_is_refused(name: str, value: object) -> None:
    arguments: dict[str, object] = {"sampling_rate": 0.5, "noise_multiplier": 1.0, name: value}
    with pytest.raises(TypeError, match=f"{name} must be a real number"):
        BucketMechanism(**arguments)  # type: ignore[arg-type]


def test_numpy_numbers_make_an_equal_step() -> None:
    assert BucketMechanism(sampling_rate=np.float32(0.5), noise_multiplier=np.int64(2)) == BucketMechanism(
        sampling_rate=0.5, noise_multiplier=2.0
    )


def test_an_ordinary_step_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BucketMechanism(sampling_rate=0.5, noise_multiplier=1.0)
        BucketMechanism(sampling_rate=1, noise_multiplier=1.0)


def test_no_noise_is_allowed_and_warns() -> None:
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        BucketMechanism(sampling_rate=0.5, noise_multiplier=0)


@pytest.mark.parametrize("accountant", ["tight", "lemma3", "theorem1"])
def test_no_noise_is_infinite_and_no_step_is_free(accountant: str) -> None:
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        noiseless = epsilon(
            sampling_rate=0.5, noise_multiplier=0, steps=1, delta=0.1, unit="class", accountant=accountant
        )
    assert noiseless.epsilon == math.inf
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        untouched = epsilon(
            sampling_rate=0.5, noise_multiplier=0, steps=0, delta=0.1, unit="class", accountant=accountant
        )
    assert untouched.epsilon == 0


FIXED: dict[str, Any] = {"units": 10, "drawn": 3, "noise_multiplier": 1.0}
TRUNCATED: dict[str, Any] = {"units": 10, "sampling_rate": 0.5, "most": 3, "noise_multiplier": 1.0}
BINS: dict[str, Any] = {"steps_per_pass": 4, "noise_multiplier": 1.0}
OTHERS: list[tuple[Any, dict[str, Any]]] = [
    (FixedNumber, FIXED),
    (TruncatedPoisson, TRUNCATED),
    (BallsInBins, BINS),
]


@pytest.mark.parametrize(("kind", "arguments"), OTHERS)
@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "3", None, math.nan])
def test_every_argument_of_the_other_samplers_is_checked(
    kind: Any, arguments: dict[str, Any], wrong: object
) -> None:
    for name in arguments:
        if name == "noise_multiplier" and wrong in (0, 2.5):
            continue
        with pytest.raises((TypeError, ValueError), match=f"{name} must be .*got"):
            kind(**{**arguments, name: wrong})


def test_more_cannot_be_drawn_than_there_are() -> None:
    with pytest.raises(ValueError, match="drawn must be at most 10, the number of units, got 11"):
        FixedNumber(**{**FIXED, "drawn": 11})
    assert FixedNumber(**{**FIXED, "drawn": 10}).sampling_rate == 1


@pytest.mark.parametrize(("kind", "arguments"), OTHERS)
def test_the_other_samplers_are_equal_by_value_and_warn_without_noise(
    kind: Any, arguments: dict[str, Any]
) -> None:
    numpy = {
        name: np.float64(value) if isinstance(value, float) else np.int64(value)
        for name, value in arguments.items()
    }
    assert kind(**numpy) == kind(**arguments)
    assert hash(kind(**numpy)) == hash(kind(**arguments))
    with pytest.warns(UserWarning, match="noise_multiplier is 0") as caught:
        nothing = kind(**{**arguments, "noise_multiplier": 0})
    assert caught[0].filename == __file__
    run = Ledger().record(nothing)
    assert run.noiseless
    assert run.guarantee(delta=1e-3, unit="class").epsilon == math.inf


def test_one_charge_of_a_pass_covers_its_steps() -> None:
    assert steps_of(BallsInBins(**BINS)) == 4
    assert steps_of(FixedNumber(**FIXED)) == steps_of(TruncatedPoisson(**TRUNCATED)) == 1
    run = Ledger().record(BallsInBins(**BINS), 3).record(FixedNumber(**FIXED), 5)
    assert run.steps == 17
    assert run.guarantee(delta=1e-3, unit="class").steps == 17


def test_every_sampler_has_a_name_and_a_subclass_has_none() -> None:
    made = {"fixed_number": FixedNumber(**FIXED), "balls_in_bins": BallsInBins(**BINS)}
    assert {name: sampler(mechanism) for name, mechanism in made.items()} == {name: name for name in made}
    assert set(SAMPLERS) == {"poisson", "fixed_number", "truncated_poisson", "balls_in_bins"}
    with pytest.raises(KeyError):
        sampler(SeveralBuckets(sampling_rate=0.1, noise_multiplier=1, buckets_per_unit=2))


@pytest.mark.parametrize(("kind", "arguments"), OTHERS)
def test_what_covers_poisson_sampling_only_refuses_the_others(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=f"lemma3 covers Poisson sampling only, and the run has {kind.__name__}"
    ):
        poisson(kind(**arguments), "lemma3")
    with pytest.raises(ValueError, match="buckets_per_unit is 2, which is covered for Poisson sampling only"):
        for_units({kind(**arguments): 1}, 2)
