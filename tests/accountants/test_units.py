"""The unit table: every cell is the answer of the accountant for that unit."""

from __future__ import annotations

import json

import pytest

from accountants import ADJACENCIES, BucketMechanism, Ledger
from accountants.units import unit_table

RUN = Ledger().record(BucketMechanism(sampling_rate=0.01, noise_multiplier=1.0), 1000)


def test_every_cell_is_the_answer_for_that_unit() -> None:
    rows = unit_table(RUN, records_per_unit={"record": 1, "user": 10, "class": 100}, delta=1e-5)
    assert [(row.unit, row.records) for row in rows] == [("record", 1), ("user", 10), ("class", 100)]
    for row in rows:
        for adjacency in ADJACENCIES:
            asked = {"delta": 1e-5, "unit": row.unit, "adjacency": adjacency}
            assert row.sampled_by_record[adjacency] == RUN.guarantee(**asked, buckets_per_unit=row.records)  # type: ignore[arg-type]
            assert row.as_bucket[adjacency] == RUN.guarantee(**asked)  # type: ignore[arg-type]
    record, user, _ = rows
    assert record.sampled_by_record == record.as_bucket
    assert user.sampled_by_record["add_remove"].epsilon == pytest.approx(27.9, rel=1e-3)
    document = json.loads(json.dumps(user.to_dict()))
    assert document["sampled_by_record"]["replace"]["unit"] == "user"
    assert document["records"] == 10


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({}, "records_per_unit is empty"),
        ({"user": 0}, "records_per_unit of user must be at least 1, got 0"),
        ({" ": 3}, "unit must say what one bucket is"),
    ],
)
def test_what_is_no_unit_is_refused(units: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unit_table(RUN, records_per_unit=units, delta=1e-5)
    with pytest.raises(TypeError, match=r"records_per_unit of user must be an integer, got 2\.5"):
        unit_table(RUN, records_per_unit={"user": 2.5}, delta=1e-5)  # type: ignore[dict-item]
