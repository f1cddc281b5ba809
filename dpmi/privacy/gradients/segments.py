"""The assignment of a physical batch's records to buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch
from torch import Tensor

from dpmi.privacy.waits import sent


@dataclass(frozen=True)
class Run:
    """Consecutive buckets with the same number of records; one batched operation can process them all."""

    first_bucket: int
    count: int
    size: int
    first_record: int

    @property
    def buckets(self) -> slice:
        """The positions of these buckets among all buckets."""
        return slice(self.first_bucket, self.first_bucket + self.count)

    @property
    def records(self) -> slice:
        """The positions of their records in the physical batch."""
        return slice(self.first_record, self.first_record + self.count * self.size)


@dataclass(frozen=True)
class Segments:
    """The buckets of one physical batch, whose records are grouped by bucket.

    Args:
        sizes: number of records of each bucket, at least 1.

    Raises:
        ValueError: there is no bucket, or a bucket has no records.
    """

    sizes: Sequence[int]

    def __post_init__(self) -> None:
        sizes = tuple(int(size) for size in self.sizes)
        if not sizes or min(sizes) < 1:
            raise ValueError(
                f"sizes is {sizes}; it must hold at least one bucket, each with at least one record"
            )
        object.__setattr__(self, "sizes", sizes)

    @property
    def num_buckets(self) -> int:
        """Number k of buckets."""
        return len(self.sizes)

    @cached_property
    def records(self) -> int:
        """Number of records of all buckets."""
        return sum(self.sizes)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """k + 1 numbers; bucket i holds the records from bounds[i] up to, but excluding, bounds[i + 1]."""
        return (0, *accumulate(self.sizes))

    def runs(self) -> tuple[Run, ...]:
        """Return the runs of consecutive buckets of equal size."""
        return self._runs

    @cached_property
    def _runs(self) -> tuple[Run, ...]:
        runs, bucket = [], 0
        for size, group in groupby(self.sizes):
            count = len(list(group))
            runs.append(Run(bucket, count, size, self.bounds[bucket]))
            bucket += count
        return tuple(runs)

    def bucket_of_record(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the bucket of each record, (records,) int64."""
        found = self._bucket_of_record.get(torch.device(device))
        if found is None:
            sizes = sent(torch.tensor(self.sizes), torch.device(device))
            found = torch.repeat_interleave(sizes, output_size=self.records)
            self._bucket_of_record[torch.device(device)] = found
        return found

    @cached_property
    def _bucket_of_record(self) -> dict[torch.device, Tensor]:
        return {}

    def sum(self, values: Tensor, dims: Sequence[int] = ()) -> Tensor:
        """Return the sum over the records of each bucket, and over further dimensions.

        Args:
            values: (records, ...).
            dims: dimensions to sum over besides the first.

        Returns:
            (k, ...) without ``dims``, in float32 or better for any type of ``values``.
        """
        dtype = torch.promote_types(values.dtype, torch.float32)
        if len(self._runs) == 1 and self.sizes[0] > 1:
            by_bucket = values.view(self.num_buckets, self.sizes[0], *values.shape[1:])
            return by_bucket.sum([1, *(d + 1 for d in dims)], dtype=dtype)
        # torch sums over all dimensions if `dims` is empty. The copy gives the caller a new tensor.
        of_record = values.sum(tuple(dims), dtype=dtype) if dims else values.to(dtype, copy=True)
        if self.num_buckets == self.records:
            return of_record
        # There are few buckets, so a product with a matrix of zeros and ones is faster than adding record by record.
        member = self._member(values.device, dtype)
        return (member @ of_record.reshape(self.records, -1)).view(-1, *of_record.shape[1:])

    def _member(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return which records each bucket has, (k, records) of zeros and ones."""
        found = self._members.get((device, dtype))
        if found is None:
            bucket = torch.arange(self.num_buckets, device=device)[:, None]
            found = (self.bucket_of_record(device) == bucket).to(dtype)
            self._members[device, dtype] = found
        return found

    @cached_property
    def _members(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}
