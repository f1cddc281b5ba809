"""What the loader says of a physical batch."""

from __future__ import annotations

from dpmi.privacy import PhysicalBatch


def test_a_part_of_a_bucket_is_told_from_whole_buckets() -> None:
    assert PhysicalBatch(buckets=(1,), sizes=(2,), bucket_records=(5,)).is_part
    whole = PhysicalBatch(buckets=(0, 2), sizes=(1, 2), bucket_records=(1, 2))
    assert not whole.is_part
    assert whole.records == 3
