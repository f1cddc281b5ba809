"""The plan: what is billed, divided by and taken at a step follows from one set of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dpmi.privacy import Partition, Plan

SIZES = [1, 5, 2]


def plan(**changed: Any) -> Plan:
    arguments = {"sampling_rate": 0.25, "noise_multiplier": 1.5, "max_grad_norm": 3.0, **changed}
    return Plan(partition=Partition.by_column(np.repeat(np.arange(3), SIZES)), **arguments)


def test_what_is_billed_is_what_is_drawn_and_added() -> None:
    mechanism = plan().mechanism
    assert (mechanism.sampling_rate, mechanism.noise_multiplier) == (0.25, 1.5)


def test_the_divisor_is_the_expected_number_of_buckets() -> None:
    assert plan().expected_buckets == 0.25 * 3


@pytest.mark.parametrize(("most", "taken"), [(None, SIZES), (1, [1, 1, 1]), (2, [1, 2, 2]), (9, SIZES)])
def test_of_a_bucket_so_many_records_are_taken(most: int | None, taken: list[int]) -> None:
    assert plan(max_records_per_bucket=most).records_of.tolist() == taken


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampling_rate": 0.0}, r"sampling_rate must be in \(0, 1\]"),
        ({"noise_multiplier": -1.0}, r"noise_multiplier must be at least 0"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm is 0.0; it must be a finite number above 0"),
        ({"max_grad_norm": float("inf")}, r"max_grad_norm is inf"),
        (
            {"max_records_per_bucket": 0},
            r"max_records_per_bucket is 0; it must be at least 1, or None for all",
        ),
    ],
)
def test_what_no_run_can_be_billed_for_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changed)
