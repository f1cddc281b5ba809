"""A plain loop over dict batches with a model that computes its own loss, like the models of Hugging Face.

It trains on scikit-learn's digits with differential privacy for subclasses: 20 clusters of images per class. The loss
is part of the model, so make_private gets no criterion, and every pass through the model contains one bucket. If the
loss is outside of the model, pass it as the criterion: several small buckets then share a forward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from dpmi.privacy import Partition, PrivacyEngine

TRAIN, STEPS, EPSILON, DELTA = 1400, 100, 8.0, 1e-3  # 1400 records train, the other 397 test


class Output(NamedTuple):
    """Output of the model."""

    loss: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """A small network whose forward pass takes the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, pixel_values: Tensor, labels: Tensor) -> Output:
        """Return logits (B, 10) and their loss: a mean over records, the default of `loss_reduction`."""
        logits = self.layers(pixel_values)
        return Output(nn.functional.cross_entropy(logits, labels), logits)


def main() -> tuple[float, PrivacyEngine]:
    """Train, print the privacy statement, and return test accuracy and engine."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
    records = [{"pixel_values": x[i], "labels": y[i]} for i in range(TRAIN)]
    plain, engine = Classifier(), PrivacyEngine()
    model, optimizer, loader = engine.make_private_with_epsilon(
        module=plain,
        optimizer=torch.optim.SGD(plain.parameters(), lr=1.0),
        data_loader=DataLoader(records, batch_size=32, shuffle=True),  # type: ignore[arg-type]
        partition=Partition.by_kmeans(pixels[:TRAIN], classes[:TRAIN], clusters_per_class=20),
        sampling_rate=0.2,
        steps=STEPS,
        steps_per_epoch=STEPS,  # one pass over the loader is the whole training
        target_epsilon=EPSILON,
        target_delta=DELTA,
        max_grad_norm=1.0,
    )
    # A logical step can take several batches, or none after an empty draw; the hook runs once per released step.
    scheduler = CosineAnnealingLR(optimizer.original_optimizer, T_max=STEPS)
    optimizer.original_optimizer.register_step_post_hook(lambda *_: scheduler.step())

    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    # The original module has the trained weights; evaluate and save it as usual.
    accuracy = float((plain.eval()(x[TRAIN:], y[TRAIN:]).logits.argmax(1) == y[TRAIN:]).float().mean())
    print(f"test accuracy: {accuracy:.2f}", engine.statement(DELTA).text(), sep="\n")
    return accuracy, engine


if __name__ == "__main__":
    main()
