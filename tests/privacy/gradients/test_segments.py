"""Where the records of each bucket are in a physical batch."""

from __future__ import annotations

import pytest
import torch

from dpmi.privacy.gradients.segments import Segments


def test_segments_group_buckets_of_one_size() -> None:
    segments = Segments([1, 1, 3, 2, 2])
    assert (segments.num_buckets, segments.records, segments.bounds) == (5, 9, (0, 1, 2, 5, 7, 9))
    runs = [(r.first_bucket, r.count, r.size, r.first_record) for r in segments.runs()]
    assert runs == [(0, 2, 1, 0), (2, 1, 3, 2), (3, 2, 2, 5)]
    assert segments.bucket_of_record("cpu").tolist() == [0, 1, 2, 2, 2, 3, 3, 4, 4]
    values = torch.arange(18.0).view(9, 2)
    assert segments.sum(values).tolist() == [[0, 1], [2, 3], [18, 21], [22, 24], [30, 32]]
    assert segments.sum(values.to(torch.bfloat16), [1]).dtype == torch.float32


@pytest.mark.parametrize("sizes", [[], [2, 0], [-1]])
def test_segments_refuse_buckets_without_records(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Segments(sizes)
