"""The stop rule and the steps of MI-Face, against values worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import MIFace, Reconstructions


class Logistic(nn.Module):
    """p_1 = sigmoid(slope * sum(x) + offset) for two classes."""

    def __init__(self, slope: float, offset: float = 0.0) -> None:
        super().__init__()
        self.slope, self.offset = slope, offset

    def forward(self, images: Tensor) -> Tensor:
        logit = self.slope * images.flatten(1).sum(1) + self.offset
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


class Valley(nn.Module):
    """p_1 is largest at x = peak, at most sigmoid(2) = 0.88, and falls off on both sides."""

    def __init__(self, peak: float, steepness: float) -> None:
        super().__init__()
        self.peak, self.steepness = peak, steepness

    def forward(self, images: Tensor) -> Tensor:
        logit = 2 - self.steepness * (images.flatten(1).sum(1) - self.peak) ** 2
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def run(attack: MIFace, target: nn.Module, labels: tuple[int, ...] = (1,)) -> Reconstructions:
    return attack.run(target, torch.tensor(labels), image_shape=(1, 1, 1), generator=torch.Generator())


def test_first_step_is_plain_gradient_descent() -> None:
    recons = run(MIFace(iterations=1, learning_rate=0.1), Logistic(slope=2.0))
    # d p / d x at 0 is slope * p * (1 - p) = 0.5.
    assert recons.images.item() == pytest.approx(0.05)
    assert recons.iterations.item() == 1


def test_stops_at_the_confidence() -> None:
    """Trap 2: it stops when the cost is small, not while it is."""
    recons = run(MIFace(learning_rate=0.1, stop_confidence=0.7), Logistic(slope=2.0))
    assert 0.7 <= recons.scores.item() < 0.71
    x, steps = 0.0, 0
    while (p := torch.tensor(2 * x).sigmoid().item()) < 0.7:
        x, steps = x + 0.1 * 2 * p * (1 - p), steps + 1
    assert recons.iterations.item() == steps


def test_target_already_certain_stops_at_the_start() -> None:
    recons = run(MIFace(), Logistic(slope=1.0, offset=10.0))
    assert recons.iterations.item() == 0
    assert recons.images.item() == 0.0


def test_stops_when_nothing_improves_for_a_window() -> None:
    """Trap 2: a flat cost stops after exactly `window` more costs, and not earlier."""
    for window in (1, 5, 100):
        recons = run(MIFace(window=window), Logistic(slope=0.0))
        assert recons.iterations.item() == window


def test_falling_costs_do_not_stop_it() -> None:
    recons = run(MIFace(iterations=400, window=1, learning_rate=0.001), Logistic(slope=2.0))
    assert recons.iterations.item() == 400


def test_stagnation_compares_with_the_largest_of_the_window() -> None:
    """A cost that swings around the optimum passes a window of 2 costs and stops by a window of 1."""
    target = Valley(peak=0.5, steepness=8.0)
    swinging = {"learning_rate": 0.2, "iterations": 300}
    short = run(MIFace(window=1, **swinging), target)
    costs = []
    x = torch.zeros(1, 1, 1, 1)
    for _ in range(301):
        x.requires_grad_()
        p = target(x).softmax(1)[0, 1]
        (gradient,) = torch.autograd.grad(p, x)
        costs.append(1 - p.item())
        x = (x.detach() + 0.2 * gradient).clamp(0, 1)
    first_rise = next(i for i in range(1, 301) if costs[i] >= costs[i - 1])
    assert short.iterations.item() == first_rise
    window = 7
    first_stagnation = next(i for i in range(window, 301) if costs[i] >= max(costs[i - window : i]))
    assert run(MIFace(window=window, **swinging), target).iterations.item() == first_stagnation


def test_returns_the_best_image_visited_not_the_last() -> None:
    """Trap 1: an image that aliases the one being updated would be the last."""
    target = Valley(peak=0.3, steepness=20.0)
    recons = run(MIFace(iterations=3, learning_rate=0.4), target)
    visited = [0.0]
    for _ in range(3):
        x = torch.tensor([[[[visited[-1]]]]], requires_grad=True)
        (gradient,) = torch.autograd.grad(target(x).softmax(1)[0, 1], x)
        visited.append((x + 0.4 * gradient).clamp(0, 1).item())
    best = min(visited, key=lambda x: (x - 0.3) ** 2)
    assert best != visited[-1], "otherwise this test shows nothing"
    assert recons.images.item() == pytest.approx(best)


def test_pixels_are_clipped_after_the_step() -> None:
    recons = run(MIFace(learning_rate=1000.0, iterations=5), Logistic(slope=1.0))
    assert recons.images.item() == 1.0


def test_rows_that_stopped_cost_nothing_more() -> None:
    class TwoSpeeds(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1).sum(1)
            return torch.stack([torch.zeros_like(x), 100 * x + 10, 0.1 * x], dim=1)

    recons = run(MIFace(iterations=50), TwoSpeeds(), labels=(1, 2))
    assert recons.iterations.tolist() == [0, 50]
    # 51 visited images for one class, 1 for the other.
    assert recons.grad_calls == 52


def test_process_denoises_without_leaving_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    target = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    with torch.no_grad():
        target[1].weight.normal_(generator=generator)
    shape = (1, 12, 12)
    plain, smooth = (
        MIFace(process=process, iterations=50)
        .run(target, torch.arange(3), image_shape=shape, generator=torch.Generator())
        .images
        for process in ("identity", "denoise-sharpen")
    )

    def roughness(images: Tensor) -> float:
        return float(images.diff(dim=3).abs().sum() / images.sum())

    assert roughness(smooth) < 0.8 * roughness(plain)
    assert smooth.min() >= 0
    assert smooth.max() <= 1


def test_auxiliary_cost_is_part_of_the_cost() -> None:
    class Dark(MIFace):
        def auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return 10 * images.flatten(1).sum(1), torch.full_like(images, 10)

    assert run(Dark(iterations=20), Logistic(slope=2.0)).images.item() == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("window", 0), ("stop_confidence", 1.5), ("stop_confidence", 0.0), ("process", "median")],
)
def test_bad_hyper_parameters(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} must be .*; got {value!r}"):
        MIFace(**{field: value})
