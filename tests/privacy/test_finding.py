"""A finding: its verdict, its bounds, and its forms as text and JSON values."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from accountants import epsilon
from dpmi.privacy.finding import VIOLATED, Check, Estimate, Finding

RUN = Estimate(sampling_rate=0.2, noise_multiplier=1.6, steps=50)


def finding(*p_values: float, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "canaries": 100,
        "confidence": 0.95,
        "claimed": RUN,
        "at_least": Estimate(sampling_rate=0.19, noise_multiplier=1.8, steps=50),
        "ceiling": Estimate(sampling_rate=0.195, noise_multiplier=1.7, steps=50),
        "checks": tuple(
            Check(name=f"check {i}", claimed=1.0, found=1.5, p_value=p)
            for i, p in enumerate(p_values or (0.3, 0.6))
        ),
        **changes,
    }
    return Finding(**values)


def test_bounds_are_those_of_the_tight_accountant() -> None:
    expected = epsilon(sampling_rate=0.19, noise_multiplier=1.8, steps=50, delta=1e-3, unit="bucket").epsilon
    assert finding().lower_bound(1e-3, "replace") == expected
    assert finding().lower_bound(1e-3, "add_remove") < expected
    for nothing in ({"sampling_rate": 0.0, "steps": 5}, {"sampling_rate": 0.5, "steps": 0}):
        assert Estimate(noise_multiplier=1.0, **nothing).epsilon(1e-3, "replace") == 0.0  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_a_measured_rate_of_1_is_no_choice_and_warns_nobody() -> None:
    assert Estimate(sampling_rate=1.0, noise_multiplier=2.0, steps=1).epsilon(1e-3, "replace") > 0


def test_the_verdict_is_that_of_the_worst_check_corrected_for_their_number() -> None:
    assert finding(0.3, 0.02).p_value == pytest.approx(0.04)
    assert finding(0.9, 0.8).p_value == 1.0
    assert finding(0.3, 0.6 * VIOLATED).verdict == "consistent"
    wrong = finding(0.3, 0.4 * VIOLATED)
    assert wrong.violated
    assert wrong.verdict == "violated (p = 8e-07): check 1 is 1.5, not 1"


def test_its_text_names_model_canaries_bounds_and_ceilings() -> None:
    text = finding().text(1e-3)
    assert text.startswith("consistent with the claim; epsilon is at least ")
    for part in (
        "replace adjacency",
        "add_remove adjacency",
        "ceiling",
        "95% confidence",
        "white box",
        "100 canary",
    ):
        assert part in text
    assert finding(1e-9).text(1e-3).startswith("VIOLATED (p = 1e-09): check 0 is 1.5, not 1; epsilon")


def test_its_values_go_through_json() -> None:
    values = json.loads(json.dumps(finding().to_dict()))
    assert Finding.from_dict(values) == finding()
    with pytest.raises(KeyError):
        Finding.from_dict({name: value for name, value in values.items() if name != "checks"})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"canaries": 0}, "canaries must be at least 1, got 0"),
        ({"confidence": 0.3}, r"confidence must be in \(0.5, 1\), got 0.3"),
        ({"checks": ()}, "checks is empty"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        finding(**changes)
    with pytest.raises(ValueError, match=r"check 'x': p_value must be in \[0, 1\], got 2"):
        Check(name="x", claimed=0.0, found=0.0, p_value=2.0)
    assert dataclasses.is_dataclass(Check)
