"""A LightningModule trained with differential privacy for patients; it needs the extra ``dpmi[lightning]``.

The data set is scikit-learn's breast cancer table, with one row per patient. If patients have several rows, pass the
column of patient ids to ``Partition.by_column``; the rest stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningModule, Trainer
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import BucketDataLoader, Partition, PrivacyEngine

PUBLIC, TRAIN = 100, 450  # records 0..99 are public and set the scale, 100..449 train, the other 119 test


class PrivateClassifier(LightningModule):
    """Logistic regression."""

    def __init__(self, plain_loader: DataLoader[Any]) -> None:
        super().__init__()
        self.automatic_optimization = False  # the automatic one passes step() a closure, which dpmi rejects
        self.model: nn.Module = nn.Linear(30, 2)
        self.engine, self.plain_loader = PrivacyEngine(), plain_loader

    def configure_optimizers(self) -> Optimizer:
        """Make everything private; Lightning has moved the parameters to their device by now."""
        self.model, self.optimizer, self.criterion, self.loader = self.engine.make_private(
            module=self.model,
            optimizer=torch.optim.SGD(self.model.parameters(), lr=0.3),
            criterion=nn.CrossEntropyLoss(),
            data_loader=self.plain_loader,
            partition=Partition.by_column(range(PUBLIC, TRAIN), unit="patient"),
            sampling_rate=0.1,
            noise_multiplier=2.0,
            max_grad_norm=1.0,
        )
        return self.optimizer

    def train_dataloader(self) -> BucketDataLoader:
        """Return the private loader, not the plain one."""
        return self.loader

    def training_step(self, dataloader_iter: Iterator[Any]) -> None:
        """Fetch one batch and step; with an argument ``batch`` Lightning would fetch the next one before the step."""
        (x, y), *_ = next(dataloader_iter)
        self.optimizer.zero_grad()
        self.manual_backward(self.criterion(self.model(x.to(self.device)), y.to(self.device)))
        self.optimizer.step()  # not self.optimizers().step(), which passes a closure


def main() -> tuple[float, PrivacyEngine]:
    """Train, print the privacy statement, and return test accuracy and engine."""
    table, labels = load_breast_cancer(return_X_y=True)
    scaled = (table - table[:PUBLIC].mean(0)) / table[:PUBLIC].std(0)
    x, y = torch.tensor(scaled, dtype=torch.float32), torch.tensor(labels)
    module = PrivateClassifier(DataLoader(TensorDataset(x[PUBLIC:TRAIN], y[PUBLIC:TRAIN])))
    # Limit the epochs: max_steps does not count the steps of manual optimization.
    Trainer(
        max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    ).fit(module)
    accuracy = float((module.eval().model(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean())
    print(f"test accuracy: {accuracy:.2f}", module.engine.statement(1e-3).text(), sep="\n")
    return accuracy, module.engine


if __name__ == "__main__":
    main()
