"""How the records of a physical batch are fetched from tensors in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .partition import Partition
from .plan import PhysicalBatch

LARGEST_COPY = 2**28
"""Bytes of data up to which a copy is sorted by bucket for the time of one pass: 256 MiB."""

_PAYS = 2.0
"""Fetches of each record from which on sorting them first is not slower."""

Fetch = Callable[[PhysicalBatch], tuple[Tensor, ...]]


def fetcher(data: TensorDataset, partition: Partition, *, passes: float) -> Fetch:
    """A function that fetches the records of one physical batch, as tensors of their own.

    A bucket whose records lie side by side is one slice. Data that are not sorted by bucket are sorted into a
    copy, if that is small and pays; of other data, the records are picked one by one.

    Args:
        data: tensors (N, ...).
        partition: of its records.
        passes: how often each record is expected to be fetched.
    """
    order, start = partition.by_bucket
    index = torch.from_numpy(order)
    bounds = start.tolist()
    tensors = data.tensors
    if not bool((index[1:] > index[:-1]).all()):
        size = sum(t.element_size() * t.numel() for t in tensors)
        if passes < _PAYS or size > LARGEST_COPY:
            return lambda batch: tuple(t[_records(index, bounds, batch)] for t in tensors)
        tensors = tuple(t[index] for t in tensors)

    def slices(batch: PhysicalBatch) -> tuple[Tensor, ...]:
        if len(batch.buckets) == 1:
            first = bounds[batch.buckets[0]] + batch.first
            # A copy: a loop that changes its batch in place must not change the data.
            return tuple(t[first : first + batch.records].clone() for t in tensors)
        return tuple(torch.cat([t[bounds[b] : bounds[b + 1]] for b in batch.buckets]) for t in tensors)

    return slices


def _records(index: Tensor, bounds: list[int], batch: PhysicalBatch) -> Tensor:
    together = torch.cat([index[bounds[b] : bounds[b + 1]] for b in batch.buckets])
    return together[batch.first : batch.first + batch.records]
