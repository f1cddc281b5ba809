"""The settings of an audit, and what it refuses before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpmi.privacy.audit import Audit

from .small import wrap


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"canaries": 1}, "canaries must be at least 2, got 1"),
        ({"canaries": 2.5}, "canaries must be an integer"),
        ({"confidence": 0.5}, r"confidence must be in \(0.5, 1\), got 0.5"),
        ({"confidence": 1.0}, "confidence must be in"),
        ({"power": 1.0}, r"power must be in \[0, 1\), got 1.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        Audit(**options)


def test_a_model_that_is_too_small_says_how_many_canaries_it_has_room_for() -> None:
    with pytest.raises(
        ValueError, match="canaries is 200, but a model of 1086 trained parameters has room for 54"
    ):
        wrap(audit=Audit())
    with pytest.raises(
        ValueError, match=r"has room for 1 .*; use at most 1: this model is too small for an audit"
    ):
        wrap(torch.nn.Linear(20, 1, bias=True), audit=Audit(canaries=2))


def test_a_power_that_cannot_be_reached_is_refused_with_the_power_that_can() -> None:
    wrap(audit=Audit(canaries=40, power=0.5))
    text = r"power is 0.95, but with 40 canaries and 30 steps .* a share of 0\.\d\d; use more .* room for 54"
    with pytest.raises(ValueError, match=text):
        wrap(audit=Audit(canaries=40, power=0.95))


@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
def test_a_run_without_noise_has_nothing_to_test() -> None:
    with pytest.raises(ValueError, match="audit is given, but noise_multiplier is 0"):
        wrap(noise_multiplier=0.0)
