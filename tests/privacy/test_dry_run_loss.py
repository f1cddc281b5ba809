"""What a loop makes of the criterion's loss, and of the batch, is the same for every bucket.

Modules: dpmi/privacy/criterion/wrapped.py, dpmi/privacy/dry_run.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .test_dry_run import Loop, Trained, X, linear, plain, with_loss


def same_as_alone(loop: Loop, model: Callable[[], nn.Module] = linear, **options: Any) -> Trained:
    """Train with buckets that share batches; the update is that of one bucket at a time."""
    shared = Trained(model(), loop=loop, grad_sample_mode="hooks", **options)
    alone = Trained(model(), loop=loop, grad_sample_mode="stream", **options)
    assert max(shared.sizes) > 4 == max(alone.sizes)
    assert torch.allclose(shared.weights, alone.weights, atol=1e-6)
    return shared


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_factor_of_the_loop_counts_for_every_bucket(factor: float) -> None:
    """Below the clipping norm, a factor of the loss is one of the update."""
    options: dict[str, Any] = {"max_grad_norm": 100.0, "steps_per_epoch": 1}
    scaled = same_as_alone(with_loss(lambda loss: loss * factor), **options)
    unscaled = Trained(linear(), grad_sample_mode="hooks", **options)
    start = torch.cat([p.detach().flatten() for p in linear().parameters()])
    assert torch.allclose(scaled.weights - start, factor * (unscaled.weights - start), atol=1e-6)


def test_the_loss_that_the_loop_sees_is_that_of_the_batch() -> None:
    seen: list[tuple[float, float]] = []

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        out = run.module(x)
        loss = run.criterion(out, y)
        loss.backward()
        if not run.optimizer.rehearsing:
            real = torch.as_tensor(out.detach().numpy())
            seen.append((float(loss), float(F.cross_entropy(real, torch.as_tensor(y.numpy())))))
        run.optimizer.step()

    Trained(linear(), loop=loop, grad_sample_mode="hooks")
    assert all(found == pytest.approx(expected, rel=1e-5) for found, expected in seen)


@pytest.mark.parametrize("change", [lambda loss: loss**2, lambda loss: loss.clamp(max=1.5), torch.exp])
def test_what_is_no_multiple_of_the_loss_gets_a_fixed_factor_and_a_warning(
    change: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dpmi"):
        run = Trained(linear(), loop=with_loss(change), grad_sample_mode="hooks")
    assert "by more than a constant factor" in caplog.text
    one = torch.tensor(1.0, requires_grad=True)
    change(one).backward()
    factor = float(one.grad)  # type: ignore[arg-type]
    expected = Trained(linear(), loop=with_loss(lambda loss: loss * factor), grad_sample_mode="hooks")
    assert torch.allclose(run.weights, expected.weights, atol=1e-6)


def test_a_multiple_is_no_reason_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dpmi"):
        Trained(linear(), loop=with_loss(lambda loss: loss / 4), grad_sample_mode="hooks")
    assert not caplog.records


class Heads(nn.Module):
    """Two outputs, as with an auxiliary classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.auxiliary = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).tanh()
        return self.head(h), self.auxiliary(h)


@pytest.mark.parametrize("backward_passes", [1, 2])
def test_two_uses_of_the_criterion_keep_their_weights(backward_passes: int) -> None:
    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        run.optimizer.zero_grad()
        out, auxiliary = run.module(x)
        first, second = run.criterion(out, y), 0.3 * run.criterion(auxiliary, y)
        if backward_passes == 1:
            (first + second).backward()
        else:
            first.backward(retain_graph=True)
            second.backward()
        run.optimizer.step()

    same_as_alone(loop, Heads)


def test_a_gradient_scaler_changes_nothing() -> None:
    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        run.optimizer.zero_grad()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        scaler.scale(run.criterion(run.module(x), y)).backward()
        scaler.unscale_(run.optimizer)
        scaler.step(run.optimizer)
        scaler.update()

    found = same_as_alone(loop)
    assert torch.allclose(found.weights, Trained(linear()).weights, atol=1e-6)


def test_constants_that_the_loop_made_before_are_accepted() -> None:
    mean, std = X.mean(0), X.std(0)

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        plain(run, (x - mean) / std, y)

    same_as_alone(loop)


def test_a_constant_that_is_written_to_is_none_any_more() -> None:
    mean = X.mean(0)

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        if not run.optimizer.rehearsing:
            mean.mul_(0.9)
        plain(run, x - mean, y)

    with pytest.raises(RuntimeError, match="nothing of this step was released"):
        Trained(linear(), loop=loop, grad_sample_mode="hooks")


def test_a_tensor_that_was_made_from_numbers_of_the_batch_is_refused() -> None:
    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        plain(run, x - torch.tensor(x.mean().item()), y)

    with pytest.raises(RuntimeError, match="released"):
        Trained(linear(), loop=loop, grad_sample_mode="hooks")


def test_numbers_that_are_read_off_the_batch_before_the_backward_pass_do_not_enter_the_loss() -> None:
    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        factor = float(x.abs().max())
        (run.criterion(run.module(x), y) * factor).backward()
        run.optimizer.step()

    with pytest.raises(RuntimeError, match="reads numbers from the batch and multiplies the loss"):
        Trained(linear(), loop=loop, grad_sample_mode="hooks")


def test_numbers_that_are_read_off_the_batch_do_not_choose_the_inputs() -> None:
    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        high = float(x.abs().max()) > 2.5 and not run.optimizer.rehearsing
        plain(run, x * 2 if high else x, y)

    with pytest.raises(RuntimeError, match="computes the module's inputs differently than in the dry runs"):
        Trained(linear(), loop=loop, grad_sample_mode="hooks")


def test_a_number_deep_in_the_criterions_arguments_is_compared() -> None:
    """It may be computed from all the records of the batch."""

    def weighted(out: Tensor, target: dict[str, Any]) -> Tensor:
        return F.cross_entropy(out, target["y"]) * target["weight"]

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        weight = 1.0 if len(y) < 10 else 2.0
        run.criterion(run.module(x), {"y": y, "weight": weight}).backward()
        run.optimizer.step()

    with pytest.raises(
        RuntimeError, match="computes the criterion's arguments differently than in the dry runs"
    ):
        Trained(linear(), weighted, loop, grad_sample_mode="hooks")


def test_numbers_may_be_read_for_metrics() -> None:
    correct: list[float] = []

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        out = run.module(x)
        correct.append(float((out.argmax(1) == y).float().mean()))
        run.criterion(out, y).backward()
        run.optimizer.step()

    same_as_alone(loop)
    assert all(0.0 <= c <= 1.0 for c in correct)
