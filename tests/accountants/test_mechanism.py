import math
import warnings

import numpy as np
import pytest

from accountants import BucketMechanism, epsilon


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
