"""Rules as JSON: what was written is read back, and nothing else is."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from accountants import BucketMechanism, PrivacyFilter, Tries, rules

STEP = BucketMechanism(sampling_rate=0.1, noise_multiplier=3.0)


@pytest.mark.parametrize(
    "rule",
    [
        Tries(mean=7, shape=0.5),
        Tries(mean=7, shape=math.inf),
        PrivacyFilter.planned(STEP, target_epsilon=3, delta=1e-6, adjacency="add_remove", buckets_per_unit=2),
    ],
)
def test_it_reads_back_what_it_wrote(rule: Any) -> None:
    assert rules.from_dict(json.loads(json.dumps(rule.to_dict(), allow_nan=False))) == rule


@pytest.mark.parametrize("value", [None, [], {}, {"rule": None}, {"rule": ["filter"]}, {"rule": "best"}])
def test_what_is_no_rule(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a rule, one of selection, filter, got"):
        rules.from_dict(value)
