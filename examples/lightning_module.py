"""A LightningModule trained with differential privacy for patients; it needs the extra ``dpmi[lightning]``.

The data set is scikit-learn's breast cancer table, with one row per patient. If patients have several rows, pass the
column of patient ids to ``Partition.by_column``; the rest stays the same.
"""

from __future__ import annotations

import torch
from lightning import LightningModule, Trainer
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.integrations.lightning import PrivateTraining

PUBLIC, TRAIN = 100, 450  # records 0..99 are public and set the scale, 100..449 train, the other 119 test


class Classifier(LightningModule):
    """Logistic regression, as for any training with Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(30, 2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch; every batch holds records of one patient."""
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> Optimizer:
        """Return a plain optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.3)


def main() -> tuple[float, PrivacyEngine]:
    """Train, print the privacy statement, and return test accuracy and engine."""
    table, labels = load_breast_cancer(return_X_y=True)
    scaled = (table - table[:PUBLIC].mean(0)) / table[:PUBLIC].std(0)
    x, y = torch.tensor(scaled, dtype=torch.float32), torch.tensor(labels)
    patients = Partition.by_column(range(PUBLIC, TRAIN), unit="patient")
    private = PrivateTraining(
        DataLoader(TensorDataset(x[PUBLIC:TRAIN], y[PUBLIC:TRAIN])),
        privacy={"partition": patients, "sampling_rate": 0.1, "noise_multiplier": 2.0, "max_grad_norm": 1.0},
    )
    module, quiet = (
        Classifier(),
        {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
    )
    trainer = Trainer(max_steps=100, accelerator="cpu", callbacks=[private], **quiet)
    trainer.fit(module, private.steps)
    accuracy = float((module.eval().model(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean())
    print(f"test accuracy: {accuracy:.2f}", private.engine.statement(1e-3).text(), sep="\n")
    return accuracy, private.engine


if __name__ == "__main__":
    main()
