"""Label smoothing: its loss on both sides of zero, and its schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.data import Split
from dpmi.defenses import Batch, Defense, LabelSmoothing, NoDefense, Recipe, train

from .conftest import softmax, weights


def batch(done: float, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (8,), generator=generator)
    return Batch(torch.zeros(8, 1, 1, 1), labels, logits, {}, done)


@pytest.mark.parametrize("alpha", [0.1, 0.7, 1.0])
def test_above_zero_it_is_torchs_own(alpha: float) -> None:
    found = LabelSmoothing(alpha=alpha).criterion(own := batch(0.9))
    expected = F.cross_entropy(own.logits, own.labels, label_smoothing=alpha, reduction="none")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("alpha", [-0.3, -2.0])
def test_below_zero_it_is_cross_entropy_to_labels_that_leave_the_simplex(alpha: float) -> None:
    own = batch(0.9)
    soft = F.one_hot(own.labels, 5).double() * (1 - alpha) + alpha / 5
    assert float(soft.min()) < 0
    assert float(soft.max()) > 1
    expected = -(soft * own.logits.softmax(dim=1).log()).sum(dim=1)
    torch.testing.assert_close(LabelSmoothing(alpha=alpha).criterion(own), expected)


def published(epoch: int, alpha: float, epochs: int = 100) -> float:
    """The schedule of the reference code, by epochs."""
    if epoch < 50:
        return 0.0
    return alpha * (epoch + 1 - 50) / (epochs - 50) if epoch < 75 else alpha


def test_schedule_is_the_published_one_at_the_end_of_every_epoch() -> None:
    defense = LabelSmoothing(alpha=-0.05)
    for epoch in range(100):
        end = math.nextafter((epoch + 1) / 100, 0)
        assert defense.smoothing(end) == pytest.approx(published(epoch, -0.05), abs=1e-12), epoch


def test_schedule_jumps_once_and_by_half() -> None:
    """Trap 7: between neighbouring updates nothing else changes by more than the slope of the ramp."""
    defense, steps = LabelSmoothing(alpha=-0.2), 10_000
    values = [defense.smoothing(i / steps) for i in range(steps)]
    changes = {i: a - b for i, (a, b) in enumerate(zip(values[1:], values, strict=False), start=1)}
    assert values[0] == 0
    assert values[-1] == -0.2
    assert all(change <= 0 for change in changes.values())
    jump = changes.pop(7_500)
    assert jump == pytest.approx(-0.1, abs=1e-4)
    assert min(changes.values()) == pytest.approx(-0.2 / 0.5 / steps)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, 0.0, [-1, -1, -1, -1]),
        (0.5, 0.5, [0, 0, -1, -1]),
        (0.0, 1.0, [0, -0.25, -0.5, -0.75]),
        (0.25, 0.75, [0, 0, -1 / 3, -1]),
    ],
)
def test_fractions_are_free(start: float, end: float, expected: list[float]) -> None:
    defense = LabelSmoothing(alpha=-1.0, ramp_start=start, ramp_end=end)
    assert [defense.smoothing(i / 4) for i in range(4)] == pytest.approx(expected)


def test_training_follows_the_schedule(split: Split) -> None:
    """To the last update without smoothing, parameters are those of plain cross-entropy; then they are not."""

    def path(defense: Defense) -> list[Tensor]:
        model = softmax()
        seen: list[Tensor] = []
        recipe = Recipe(steps=12, learning_rate=0.5)
        train(defense, model, split.train, recipe, seed=0, progress=lambda *_: seen.append(weights(model)))
        return seen

    plain, smoothed = path(NoDefense()), path(LabelSmoothing(alpha=-0.2))
    same = [torch.equal(a, b) for a, b in zip(plain, smoothed, strict=True)]
    # The update at done = 0.5 is the seventh, and there the ramp is still at 0.
    torch.testing.assert_close(torch.stack(smoothed[:7]), torch.stack(plain[:7]))
    assert not any(same[7:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, "alpha must be non-zero and at most 1"),
        ({"alpha": math.nan}, "alpha must be finite"),
        ({"alpha": -0.1, "ramp_start": -0.1}, r"ramp_start must be in \[0, 1\), got -0.1"),
        ({"alpha": -0.1, "ramp_end": 1.1}, r"ramp_end must be in \[ramp_start, 1\] = \[0.5, 1\], got 1.1"),
    ],
)
def test_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSmoothing(**settings)


def test_ordinary_smoothing_is_said_to_help_the_attacker() -> None:
    (remark,) = LabelSmoothing(alpha=0.1).remarks()
    assert "helps inversion attacks (Struppek et al., ICLR 2024)" in remark
    assert LabelSmoothing(alpha=-0.1).remarks() == ()
