"""What no guarantee would hold for: one message that names it and says what to do; nothing released, nothing lost.

Modules: dpmi/privacy/criterion/wrapped.py, dpmi/privacy/preconditions.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

from .promise.separate import mlp
from .promise.users import CLASSES, FEATURES

N = 24
X = torch.randn(N, FEATURES, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % CLASSES
SHARED = ["hooks", "ghost"]
Criterion = Callable[[Any, Any], Any]


class Private:
    """What ``make_private`` returned, and what must not change without a released step."""

    def __init__(self, model: nn.Module | None = None, **options: Any) -> None:
        self.engine = PrivacyEngine()
        self.plain = model or mlp()
        self.sgd = options.pop("optimizer", None) or torch.optim.SGD(
            [p for p in self.plain.parameters() if p.requires_grad], lr=0.1
        )
        self.criterion: Criterion = options.get("criterion", F.cross_entropy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a seed warns
            private = self.engine.make_private(
                module=self.plain,
                optimizer=self.sgd,
                data_loader=DataLoader(TensorDataset(X, Y), batch_size=8),
                **{
                    "partition": Partition.by_column(np.arange(N) // 4),
                    "sampling_rate": 0.8,
                    "noise_multiplier": 1.0,
                    "max_grad_norm": 1.0,
                    "steps_per_epoch": 3,
                    "seed": 0,
                    **options,
                },
            )
        self.module, self.optimizer, self.loader = private[0], private[1], private[-1]
        if "criterion" in options:
            self.criterion = private[2]
        self.state = self._state()

    def _state(self) -> list[Tensor]:
        return [t.detach().clone() for t in self.plain.state_dict().values()]

    def train(self) -> None:
        for x, y in self.loader:
            self.optimizer.zero_grad()
            self.criterion(self.module(x), y).backward()
            self.optimizer.step()

    def check_nothing_released(self) -> None:
        assert self.engine.ledger.steps == self.optimizer.released_steps == 0
        for now, before in zip(self._state(), self.state, strict=True):
            assert torch.equal(now, before)


def refused(error: type[Exception], *words: str, **options: Any) -> None:
    with pytest.raises(error) as found:
        Private(**options)
    for word in words:
        assert word in str(found.value)


class Switched:
    """A criterion that is wrong until it is told."""

    def __init__(self, wrong: Criterion) -> None:
        self.wrong: Criterion | None = wrong

    def __call__(self, out: Any, y: Any) -> Any:
        return (self.wrong or F.cross_entropy)(out, y)


def one_per_class(out: Tensor, _: Tensor) -> Tensor:
    return out.square().mean(0)


WRONG: dict[str, Criterion] = {
    "a value per class": one_per_class,
    "a matrix": lambda out, _: out.square(),
    "a number": lambda out, y: float(F.cross_entropy(out, y)),
    "nothing": lambda out, y: None,
    "a tuple": lambda out, y: (F.cross_entropy(out, y), out),
}


@pytest.mark.parametrize("mode", ["auto", *SHARED])
@pytest.mark.parametrize("name", WRONG)
def test_a_criterion_that_returns_no_scalar(name: str, mode: str) -> None:
    criterion = Switched(WRONG[name])
    private = Private(criterion=criterion, grad_sample_mode=mode)
    with pytest.raises((RuntimeError, TypeError, ValueError), match="criterion") as found:
        private.train()
    assert "scalar" in str(found.value)
    private.check_nothing_released()
    criterion.wrong = None
    private.train()
    assert private.engine.ledger.steps == 3


@pytest.mark.parametrize("mode", ["auto", *SHARED])
def test_one_value_per_record_is_a_loss(mode: str) -> None:
    private = Private(criterion=nn.CrossEntropyLoss(reduction="none"), grad_sample_mode=mode)
    for x, y in private.loader:
        private.optimizer.zero_grad()
        private.criterion(private.module(x), y).mean().backward()
        private.optimizer.step()
    assert private.engine.ledger.steps == 3


class Summed(nn.Module):
    """Returns nothing that belongs to a record."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.summed = True

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out.sum(0) if self.summed else out


def of_any(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out if out.dim() == 2 else out.expand(len(y), -1), y)


@pytest.mark.parametrize("mode", SHARED)
def test_outputs_that_cannot_be_split_by_record(mode: str) -> None:
    model = Summed()
    private = Private(model, criterion=of_any, grad_sample_mode=mode)
    with pytest.raises(RuntimeError, match="record") as found:
        private.train()
    assert "'stream'" in str(found.value) or "'auto'" in str(found.value)
    private.check_nothing_released()
    model.summed = False
    private.train()
    assert private.engine.ledger.steps == 3


def test_auto_takes_them_one_bucket_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    private = Private(Summed(), criterion=of_any)
    with caplog.at_level("INFO", logger="dpmi"):
        private.train()
        private.train()
    assert private.engine.ledger.steps == 6
    assert len([r for r in caplog.records if "one bucket at a time" in r.getMessage()]) == 1


def test_a_criterion_in_a_mode_that_does_not_use_it() -> None:
    refused(ValueError, "criterion", "'stream'", criterion=nn.CrossEntropyLoss(), grad_sample_mode="stream")


@pytest.mark.parametrize("mode", SHARED)
def test_a_mode_that_needs_a_criterion(mode: str) -> None:
    refused(ValueError, "criterion", repr(mode), grad_sample_mode=mode)


@pytest.mark.parametrize("mode", ["auto", *SHARED])
@pytest.mark.parametrize("given", ["cross_entropy", 3])
def test_a_criterion_that_cannot_be_called(given: object, mode: str) -> None:
    refused(TypeError, "criterion", repr(given), criterion=given, grad_sample_mode=mode)


@pytest.mark.parametrize("mode", ["auto", *SHARED])
@pytest.mark.parametrize(("of_criterion", "stated"), [("sum", "mean"), ("mean", "sum")])
def test_a_loss_reduction_that_contradicts_the_criterion(of_criterion: str, stated: str, mode: str) -> None:
    refused(
        ValueError,
        "loss_reduction",
        "criterion",
        repr(of_criterion),
        repr(stated),
        criterion=nn.CrossEntropyLoss(reduction=of_criterion),
        loss_reduction=stated,
        grad_sample_mode=mode,
    )


@pytest.mark.parametrize("mode", ["auto", "stream"])
def test_lbfgs_is_refused_by_name(mode: str) -> None:
    model = mlp()
    refused(
        (ValueError, TypeError),  # type: ignore[arg-type]
        "LBFGS",
        model=model,
        optimizer=torch.optim.LBFGS(model.parameters()),
        grad_sample_mode=mode,
    )


class Moving(nn.Module):
    """Moves one of its parameters in the forward pass, until it is told."""

    def __init__(self, moved: str) -> None:
        super().__init__()
        self.body = mlp()
        self.centre = nn.Parameter(torch.zeros(FEATURES), requires_grad=moved == "trained")
        self.moves = True

    def forward(self, x: Tensor) -> Tensor:
        if self.moves:
            with torch.no_grad():
                self.centre.mul_(0.9).add_(x.mean(0))
        return self.body(x - self.centre)


WITH_CRITERION = {"auto": False, "stream": False, "auto+criterion": True, "hooks": True, "ghost": True}


@pytest.mark.parametrize("mode", WITH_CRITERION)
@pytest.mark.parametrize("moved", ["trained", "frozen"])
def test_a_module_that_changes_a_parameter(moved: str, mode: str) -> None:
    model = Moving(moved)
    options = {"criterion": nn.CrossEntropyLoss()} if WITH_CRITERION[mode] else {}
    private = Private(model, grad_sample_mode=mode.split("+", maxsplit=1)[0], **options)
    with pytest.raises(RuntimeError, match="'centre'") as found:
        private.train()
    assert "'stream'" not in str(found.value), "it is unsound there too"
    private.check_nothing_released()
    model.moves = False
    if moved == "trained" and mode in SHARED:
        return  # they do not split the gradient of a parameter that is used outside of layers
    private.train()
    assert private.engine.ledger.steps == 3


class WeightedByTheLast(nn.Module):
    """No number is read off the records: their count is enough."""

    last = 1

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(out, y) * self.last
        self.last = len(y)
        return loss


@pytest.mark.parametrize("mode", ["auto", *SHARED])
def test_an_attribute_that_it_changes_for_the_next_bucket(mode: str) -> None:
    private = Private(grad_sample_mode=mode, criterion=WeightedByTheLast())
    with pytest.raises(RuntimeError, match="changed attribute 'last'"):
        private.train()
    private.check_nothing_released()


LAST = {"loss": 0.0}


def scaled_by_the_last(out: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(out, y)
    scaled = loss * (1.0 + LAST["loss"])
    LAST["loss"] = loss.item()
    return scaled


@pytest.mark.parametrize("mode", ["auto", *SHARED])
def test_a_number_that_it_leaves_for_the_next_bucket(mode: str) -> None:
    private = Private(grad_sample_mode=mode, criterion=scaled_by_the_last)
    with pytest.raises(RuntimeError, match=r"read numbers from the records, and changed 'LAST\.loss'"):
        private.train()
    private.check_nothing_released()


class ScaledByTheLastGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss * (1 + LAST["loss"])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        g = g * (1 + LAST["loss"])
        LAST["loss"] = g.item()
        return g


def with_a_function_of_its_own(out: Tensor, y: Tensor) -> Tensor:
    return ScaledByTheLastGradient.apply(F.cross_entropy(out, y))


@pytest.mark.parametrize("mode", ["auto", *SHARED])
def test_a_number_that_its_backward_pass_leaves_for_the_next_bucket(mode: str) -> None:
    private = Private(grad_sample_mode=mode, criterion=with_a_function_of_its_own)
    with pytest.raises(
        RuntimeError, match=r"read numbers from the records, and changed 'ScaledByTheLast|LAST"
    ):
        private.train()
    private.check_nothing_released()


@pytest.mark.parametrize("mode", WITH_CRITERION)
def test_another_optimizer_moves_nothing(mode: str) -> None:
    options = {"criterion": nn.CrossEntropyLoss()} if WITH_CRITERION[mode] else {}
    private = Private(grad_sample_mode=mode.split("+", maxsplit=1)[0], **options)
    other = torch.optim.Adam(private.plain.parameters(), lr=0.1)
    for p in private.plain.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="Adam"):
        other.step()
    private.check_nothing_released()
    private.train()
    assert private.engine.ledger.steps == 3
