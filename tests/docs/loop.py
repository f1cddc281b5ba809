"""What a team has before it reads a page."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset


def loop(*, records: int, features: int, classes: int) -> dict[str, Any]:
    """A model, an optimizer, a loader, labels and a criterion, by the names that pages use."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(records, features, generator=generator), torch.arange(records) % classes
    model = torch.nn.Linear(features, classes)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": DataLoader(TensorDataset(images, labels), batch_size=8),
        "labels": labels,
        "criterion": torch.nn.CrossEntropyLoss(),
    }
