import pytest
import torch
from torch import Tensor, nn

from dpmi.metrics import accuracy, confidence


class Reads(nn.Module):
    """Logits are the first pixels of the image; noise in training mode, so the mode matters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.drop(images.flatten(1)[:, : self.classes])
        return logits


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_values(classes: int, batch_size: int) -> None:
    labels = torch.arange(8) % classes
    images = torch.eye(classes)[labels].view(8, 1, 1, classes)
    images[0] = images[0].roll(1)
    model = Reads(classes).train()
    assert accuracy(model, images, labels, batch_size=batch_size) == 7 / 8
    expected = images.flatten(1).softmax(1)[torch.arange(8), labels]
    torch.testing.assert_close(confidence(model, images, labels, batch_size=batch_size), expected)


def test_modes_come_back() -> None:
    model = nn.Sequential(Reads(2), nn.Dropout())
    model.train()
    model[1].eval()
    accuracy(model, torch.rand(2, 1, 1, 2), torch.tensor([0, 1]))
    assert [m.training for m in model.modules()] == [True, True, True, False]
    with pytest.raises(ValueError, match="got 0 to 2"):
        accuracy(model, torch.rand(2, 1, 1, 2), torch.tensor([0, 2]))
    assert [m.training for m in model.modules()] == [True, True, True, False]


def test_nan_has_no_accuracy() -> None:
    """Trap 9: argmax would call NaN class 0."""
    with pytest.raises(ValueError, match="not finite"):
        accuracy(Reads(2), torch.full((1, 1, 1, 2), torch.nan), torch.tensor([0]))


@pytest.mark.parametrize(
    ("count", "labels", "batch_size", "message"),
    [
        (0, torch.tensor([], dtype=torch.int64), 1, "got 0 images"),
        (2, torch.tensor([0]), 1, r"labels of shape \(1,\)"),
        (1, torch.tensor([0]), 0, "batch_size must be at least 1; got 0"),
    ],
)
def test_bad_input(count: int, labels: Tensor, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy(Reads(2), torch.rand(count, 1, 1, 2), labels, batch_size=batch_size)
