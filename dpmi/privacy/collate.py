"""Fetches and collates the records bucket by bucket, then concatenates the buckets to one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .structures import map_tensors, tensors_in


class Buckets(Dataset[Any]):
    """A data set whose items are collated batches; an index is a list of record indices.

    The user's collate function may mix records or pad them to the longest one, so it gets the records of one bucket at
    a time.

    Args:
        records: the user's map-style data set.
        collate: the user's collate function.
    """

    def __init__(self, records: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.records = records
        self.collate = collate

    def __len__(self) -> int:
        return len(self.records)  # type: ignore[arg-type]

    def __getitem__(self, indices: list[int]) -> Any:
        """Return the collated records of one bucket."""
        fetch = getattr(self.records, "__getitems__", None)
        return self.collate(fetch(indices) if fetch else [self.records[i] for i in indices])


def merge(buckets: Sequence[Any]) -> Any:
    """Concatenate collated buckets to one batch.

    Raises:
        RuntimeError: their shapes do not match.
    """
    if len(buckets) == 1:
        return buckets[0]
    parts = [tensors_in(bucket) for bucket in buckets]
    if not parts[0]:
        return _merge_lists(buckets)
    shapes = [[tuple(t.shape[1:]) for t in own] for own in parts]
    if any(own != shapes[0] for own in shapes) or any(t.dim() == 0 for own in parts for t in own):
        raise RuntimeError(
            f"the records of two buckets are collated to tensors of shapes {shapes[0]} and "
            f"{next((own for own in shapes if own != shapes[0]), shapes[0])} per record, which do not fit into one "
            "physical batch; pad all records to the same length, or use grad_sample_mode='stream' without a criterion"
        )
    together = iter([torch.cat(own) for own in zip(*parts, strict=True)])
    merged = map_tensors(lambda _: next(together), buckets[0])
    return _with_lists(merged, buckets)


def _with_lists(merged: Any, buckets: Sequence[Any]) -> Any:
    """Return `merged` with lists of one text or object per record concatenated as well."""
    if isinstance(merged, Mapping) and type(merged) is dict:
        return {
            k: v if _holds_tensors(v) else _merge_lists([b[k] for b in buckets]) for k, v in merged.items()
        }
    if type(merged) in (list, tuple):
        return type(merged)(
            v if _holds_tensors(v) else _merge_lists([b[i] for b in buckets]) for i, v in enumerate(merged)
        )
    return merged


def _merge_lists(values: Sequence[Any]) -> Any:
    if all(isinstance(v, list | tuple) for v in values):
        return [item for v in values for item in v]
    return values[0]


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or bool(tensors_in(value))
