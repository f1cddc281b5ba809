"""Both kinds of clipping: closed forms, the bound, and whole updates against brute force."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.clipping import Clipping, clipping_factors
from dpmi.privacy.plan import Plan

from .reference import brute_force, private_run, relative_error
from .test_update import TOLERANCE, problem

KINDS: tuple[Clipping, ...] = ("flat", "automatic")


def of_mean(norm: float, max_grad_norm: float, clipping: Clipping, size: float = 1.0) -> float:
    """The length of what a bucket contributes whose mean gradient has a norm."""
    factors = clipping_factors(np.array([norm * size]), np.array([size]), max_grad_norm, clipping)
    return float(factors[0] * norm * size)


@given(
    norm=st.floats(0, 1e30),
    max_grad_norm=st.floats(1e-6, 1e6),
    size=st.integers(1, 10**6),
    clipping=st.sampled_from(KINDS),
)
def test_no_contribution_exceeds_the_bound_in_float64(
    norm: float, max_grad_norm: float, size: int, clipping: Clipping
) -> None:
    factors = clipping_factors(np.array([norm * size]), np.array([float(size)]), max_grad_norm, clipping)
    # The product may round up by one unit in the last place; the norm itself may be too small by more.
    assert factors[0] * norm * size <= max_grad_norm * (1 - 1e-7)


@pytest.mark.parametrize("size", [1, 40])
def test_long_gradients_get_the_length_of_the_bound(size: int) -> None:
    assert of_mean(5.0, 0.5, "flat", size) == pytest.approx(0.5, rel=1e-5)
    assert of_mean(5.0, 0.5, "automatic", size) == pytest.approx(0.5 * 5 / 5.01, rel=1e-5)


@pytest.mark.parametrize("size", [1, 40])
def test_automatic_clipping_keeps_short_gradients_short(size: int) -> None:
    assert of_mean(0.2, 0.5, "flat", size) == pytest.approx(0.2, rel=1e-5)
    assert of_mean(0.2, 0.5, "automatic", size) == pytest.approx(0.5 * 0.2 / 0.21, rel=1e-5)
    assert of_mean(1e-4, 0.5, "automatic", size) == pytest.approx(0.5 * 1e-4 / 0.0101, rel=1e-5)
    assert of_mean(0.0, 0.5, "automatic", size) == 0


@pytest.mark.parametrize("max_physical_batch_size", [512, 9, 1])
@pytest.mark.parametrize("mode", ["stream", "hooks", "ghost"])
def test_an_update_equals_brute_force(mode: str, max_physical_batch_size: int) -> None:
    model, x, y, partition = problem("linear")
    start = copy.deepcopy(model)
    run = private_run(
        model,
        x,
        y,
        partition,
        epochs=3,
        clipping="automatic",
        max_physical_batch_size=max_physical_batch_size,
        grad_sample_mode=mode,
    )
    expected = brute_force(start, x, y, partition, run.steps, automatic=True)
    assert relative_error(model, brute_force(start, x, y, partition, run.steps)) > 1e-2, "not that of flat"
    assert relative_error(model, expected) < TOLERANCE


def test_the_ledger_is_that_of_flat_clipping() -> None:
    runs = []
    for clipping in KINDS:
        model, x, y, partition = problem("linear")
        runs.append(private_run(model, x, y, partition, clipping=clipping, noise_multiplier=1.0))
    flat, automatic = (run.engine.account.ledger for run in runs)
    assert flat == automatic


def test_an_unknown_kind_is_one_error() -> None:
    with pytest.raises(
        ValueError,
        match="clipping must be 'flat', 'automatic', an AdaptiveClipping or a GroupClipping, got 'auto'",
    ):
        Plan(
            partition=Partition.by_record(3),
            sampling_rate=0.5,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            clipping="auto",  # type: ignore[arg-type]
        )


def test_a_training_does_not_resume_with_the_other_kind(tmp_path: object) -> None:
    model, x, y, partition = problem("linear")
    path = f"{tmp_path}/checkpoint.pt"
    private_run(model, x, y, partition, noise_multiplier=1.0, clipping="automatic").engine.save_checkpoint(
        path
    )
    other: PrivacyEngine = private_run(
        copy.deepcopy(model), x, y, partition, noise_multiplier=1.0, epochs=0
    ).engine
    with pytest.raises(ValueError, match="clipping is 'automatic' there and 'flat' here"):
        other.load_checkpoint(path)
