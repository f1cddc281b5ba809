"""What surrounds a release: the user's step hook, an optimizer that fails, and buffers that follow from weights.

Modules: dpmi/privacy/exclusive.py, dpmi/privacy/grad_sample.py, dpmi/privacy/optimizer.py.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim import SGD

from .reference import step
from .test_engine import weights, wrap
from .test_one_draw import Run, X


def test_a_step_hook_of_the_user_does_not_replace_the_bill() -> None:
    run, billed = Run(), []
    run.optimizer.attach_step_hook(lambda _: billed.append(run.engine.ledger.steps))
    run.train(3)
    assert run.engine.ledger.steps == 3
    assert billed == [0, 1, 2]


def test_an_error_of_the_optimizer_ends_its_release() -> None:
    """No other optimizer may move the parameters then."""
    run = Run()

    def fails(*_: Any, **__: Any) -> None:
        raise FloatingPointError("overflow")

    run.optimizer.original_optimizer.step = fails
    with pytest.raises(FloatingPointError):
        run.train(1)
    before = weights(run.model)
    for p in run.model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="of a private module without clipping"):
        SGD(run.model.parameters(), lr=0.1).step()
    assert torch.equal(weights(run.model), before)


def test_a_part_of_a_bucket_is_dropped_with_its_step() -> None:
    def train(*, drop: bool) -> Tensor:
        run = Run(sampling_rate=1.0, max_physical_batch_size=3)
        if drop:
            for x, y, index in run.loader:
                run.step(100 * x, y, index)
                break  # half of the bucket
            run.taken = []
        return weights(run.train(1).model)

    assert torch.equal(train(drop=True), train(drop=False))


def test_buffers_of_weights_move_once_in_a_logical_step() -> None:
    """Whatever the number of physical batches; it depends on the records that were drawn."""
    model = parametrizations.spectral_norm(nn.Linear(4, 3))
    with torch.no_grad():
        model.parametrizations.weight.original.normal_()  # a singular vector is not found yet
    expected = copy.deepcopy(model)
    engine, module, optimizer, loader = wrap(
        model, sampling_rate=1.0, steps_per_epoch=3, optimizer=SGD(model.parameters(), lr=0.0)
    )
    for x, y in loader:
        step(module, optimizer, x, y)
    assert engine.ledger.steps == 3
    for _ in range(3):
        expected(X)
    found = model.state_dict()
    assert all(torch.equal(t, found[name]) for name, t in expected.state_dict().items())


class Averaging(nn.Linear):
    """Moves a buffer where nothing is trained."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("mean", torch.zeros(4))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.mean.add_(x.mean(0))
        return super().forward(x)


def test_an_evaluation_moves_no_buffer() -> None:
    _, module, _, _ = wrap(Averaging())
    module.eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match="changed buffer 'mean'"):
        module(X)
