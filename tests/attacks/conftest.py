"""One classifier, really trained, that every attack is tried on."""

from collections.abc import Iterator

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

SHAPE = (1, 8, 8)


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1] and labels."""
    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)


def fit(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int, seed: int = 0) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def convolutional(num_classes: int) -> nn.Module:
    """With Dropout, so that evaluation mode matters, and BatchNorm, whose buffers must not move."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(192, num_classes),
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """A digits classifier of about 99 % training accuracy, left in training mode."""
    images, labels = digits()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = fit(convolutional(10), images, labels, steps=300)
        model.eval()
        with torch.no_grad():
            assert (model(images).argmax(1) == labels).float().mean() > 0.97
        return model.train()
