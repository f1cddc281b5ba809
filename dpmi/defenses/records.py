"""The records of a training: inputs and labels as a data set of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from dpmi.data import Images


def records(inputs: Images, labels: Tensor) -> Dataset[Any]:
    """Return the data set of the pairs (input, label); inputs outside the memory are read when a batch is drawn.

    Args:
        inputs: (N, ...).
        labels: int64 (N,).
    """
    return TensorDataset(inputs, labels) if isinstance(inputs, Tensor) else _LazyRecords(inputs, labels)


class _LazyRecords(Dataset[Any]):
    """Pairs of which a whole batch is read in one call."""

    def __init__(self, images: Images, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the record of a row, or the batch of a list of rows."""
        rows = torch.as_tensor(index)
        return self.images[rows], self.labels[rows]

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return a list of records, from which a loader collates a batch."""
        return list(zip(*self[rows], strict=True))
