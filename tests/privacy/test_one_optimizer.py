"""Trained parameters of a private module are moved by its private optimizer, or by nobody.

Modules: dpmi/privacy/engine.py, dpmi/privacy/exclusive.py, dpmi/privacy/optimizer.py.
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from dpmi.privacy import NonFiniteGradientError

from .reference import step
from .test_engine import X, Y, weights, wrap

# Every other optimizer


class Own(Optimizer):
    """One that torch does not know."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(1.0)


OTHERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda parameters: SGD(parameters, lr=0.1),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "Own": Own,
    "LBFGS": torch.optim.LBFGS,
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("built", ["before", "after"])
def test_another_optimizer_is_stopped_before_it_moves_anything(name: str, built: str) -> None:
    model = nn.Linear(4, 3)
    early = OTHERS[name](model.parameters())
    engine, _, _, _ = wrap(model)
    other = early if built == "before" else OTHERS[name](model.parameters())
    before = weights(model)

    def loss() -> Tensor:
        found = F.cross_entropy(model(X), Y)
        found.backward()
        return found

    loss()
    with pytest.raises(
        RuntimeError, match=rf"{name}.step\(\) would update parameter 'weight'.*make_private returned"
    ):
        other.step(loss)
    assert torch.equal(weights(model), before)
    assert engine.ledger.steps == 0


def test_the_original_optimizer_is_another_one_too() -> None:
    model = nn.Linear(4, 3)
    original = SGD(model.parameters(), lr=0.1)
    _, module, optimizer, loader = wrap(model, optimizer=original)
    for x, y in loader:
        step(module, optimizer, x, y)
    F.cross_entropy(model(X), Y).backward()
    before = weights(model)
    for other in (original, optimizer.original_optimizer):
        with pytest.raises(RuntimeError, match="would update parameter 'weight'"):
            other.step()
    assert torch.equal(weights(model), before)


def test_one_private_parameter_among_others_is_enough() -> None:
    model, public = nn.Linear(4, 3), nn.Linear(4, 3)
    private = wrap(model)
    with pytest.raises(RuntimeError, match="parameter 'bias'"):
        SGD([*public.parameters(), model.bias], lr=0.1).step()
    assert private[0].ledger.steps == 0


def test_other_models_and_copies_are_anybodys() -> None:
    _, module, optimizer, loader = wrap()
    for model in (nn.Linear(4, 3), copy.deepcopy(module._module)):
        before = weights(model)
        F.cross_entropy(model(X), Y).backward()
        SGD(model.parameters(), lr=0.1).step()
        assert not torch.equal(weights(model), before)
    for x, y in loader:
        step(module, optimizer, x, y)


def test_an_optimizer_made_of_optimizers_may_be_made_private() -> None:
    class Slow(Optimizer):
        """Steps another one inside its own step."""

        def __init__(self, inner: Optimizer) -> None:
            self.inner = inner
            super().__init__(inner.param_groups, {})

        def step(self, closure: Any = None) -> None:
            self.inner.step()

    model = nn.Linear(4, 3)
    _, module, optimizer, loader = wrap(model, optimizer=Slow(SGD(model.parameters(), lr=0.1)))
    before = weights(model)
    for x, y in loader:
        step(module, optimizer, x, y)
    assert not torch.equal(weights(model), before)


def test_parameters_are_free_again_when_engine_and_optimizer_are_gone() -> None:
    model = nn.Linear(4, 3)
    private = wrap(model)
    other = SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="private module"):
        other.step()
    gc.disable()  # whatever nobody holds any more is looked for when it matters
    try:
        del private
        F.cross_entropy(model(X), Y).backward()
        before = weights(model)
        other.step()
    finally:
        gc.enable()
    assert not torch.equal(weights(model), before)


def test_a_second_make_private_on_the_same_module_takes_it_over() -> None:
    model = nn.Linear(4, 3)
    first, module, optimizer, loader = wrap(model, sampling_rate=1.0)
    second, *newer = wrap(model, sampling_rate=1.0)
    before = weights(model)
    with pytest.raises(
        RuntimeError, match="'weight' belongs to the private optimizer of a later make_private"
    ):
        for x, y in loader:
            step(module, optimizer, x, y)
    assert torch.equal(weights(model), before)
    assert first.ledger.steps == 0
    for x, y in newer[2]:
        step(newer[0], newer[1], x, y)
    assert second.ledger.steps == 1
    assert not torch.equal(weights(model), before)


def test_a_make_private_that_failed_takes_nothing_over() -> None:
    model = nn.Linear(4, 3)
    engine, module, optimizer, loader = wrap(model, sampling_rate=1.0)
    with pytest.raises(ValueError, match="loss_reduction"):
        wrap(model, loss_reduction="none")
    for x, y in loader:
        step(module, optimizer, x, y)
    assert engine.ledger.steps == 1


# What the private optimizer has to hold


def test_trainable_parameters_that_it_does_not_hold_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(
        ValueError, match=r"does not hold parameter '0.weight' of module \(2 in total\).*Freeze"
    ):
        wrap(model, optimizer=SGD(model[1].parameters(), lr=0.1))
    model[0].requires_grad_(False)
    engine, module, optimizer, loader = wrap(model, optimizer=SGD(model[1].parameters(), lr=0.1))
    for x, y in loader:
        step(module, optimizer, x, y)
    assert engine.ledger.steps > 0


def test_parameters_without_elements_need_no_optimizer() -> None:
    model = nn.Linear(4, 3)
    held = list(model.parameters())
    model.register_parameter("empty", nn.Parameter(torch.empty(0)))
    engine, module, optimizer, loader = wrap(model, optimizer=SGD(held, lr=0.1))
    for x, y in loader:
        step(module, optimizer, x, y)
    assert engine.ledger.steps > 0


@pytest.mark.parametrize("how", ["unfrozen", "replaced", "added"])
def test_a_parameter_that_becomes_trainable_later_is_noticed_before_release(how: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    engine, module, optimizer, loader = wrap(
        model, optimizer=SGD(model[1].parameters(), lr=0.1), sampling_rate=1.0
    )
    if how == "unfrozen":
        model[0].bias.requires_grad_(True)
    elif how == "replaced":
        model[0].bias = nn.Parameter(torch.zeros(4))
    else:
        model[0].bias.requires_grad_(True)
        optimizer.original_optimizer.add_param_group({"params": [model[0].bias]})
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"trainable parameters changed.*'0.bias'"):
        for x, y in loader:
            step(module, optimizer, x, y)
    assert torch.equal(weights(model), before)
    assert engine.ledger.steps == 0


CANNOT = {"LBFGS": "several times in one step", "SparseAdam": "sparse gradients only"}
KINDS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
}


@pytest.mark.parametrize("name", KINDS)
def test_every_optimizer_of_torch_trains_or_is_refused_by_name(name: str) -> None:
    model = nn.Linear(4, 3, bias=False)
    optimizer = KINDS[name](list(model.parameters()))
    if name in CANNOT:
        with pytest.raises(
            ValueError, match=rf"optimizer is {name}, which .*{CANNOT[name]}.*such as SGD, Adam"
        ):
            wrap(model, optimizer=optimizer)
        return
    before = weights(model)
    engine, module, private, loader = wrap(model, optimizer=optimizer, sampling_rate=1.0, steps_per_epoch=3)
    for x, y in loader:
        step(module, private, x, y)
    assert engine.ledger.steps == 3
    assert not torch.equal(weights(model), before)


def test_an_optimizer_of_ones_own_that_needs_a_closure_is_refused() -> None:
    class Searching(SGD):
        def step(self, closure: Any) -> Any:
            return closure()

    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="optimizer is Searching"):
        wrap(model, optimizer=Searching(model.parameters(), lr=0.1))


# Moves within a logical step

MOVES: dict[str, Callable[[nn.Parameter], Any]] = {
    "in place": lambda p: p.add_(1e-3),
    "data": lambda p: p.data.mul_(1.001),
    "numpy": lambda p: p.numpy().__setitem__(0, 0.25),
    "other memory": lambda p: setattr(p, "data", p.data + 1.0),
}


@pytest.mark.parametrize("way", MOVES)
@pytest.mark.parametrize("when", ["before the forward pass", "after a physical batch"])
def test_a_move_within_a_logical_step_is_refused_before_release(way: str, when: str) -> None:
    engine, module, optimizer, loader = wrap(sampling_rate=1.0, max_physical_batch_size=4)
    with pytest.raises(
        RuntimeError, match=r"parameter 'bias' was changed within a logical step \(1 in total\)"
    ):
        for i, (x, y) in enumerate(loader):
            if i == 1 and when == "before the forward pass":
                with torch.no_grad():
                    MOVES[way](module._module.bias.detach() if way == "numpy" else module._module.bias)
            step(module, optimizer, x, y)
            if i == 1 and when == "after a physical batch":
                with torch.no_grad():
                    MOVES[way](module._module.bias.detach() if way == "numpy" else module._module.bias)
    assert engine.ledger.steps == optimizer.released_steps == 0


def test_a_few_values_of_many_are_found_at_the_end_of_the_step() -> None:
    """Where torch's counter does not tell."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 40 * 2048, bias=False), nn.AdaptiveAvgPool1d(3))
    engine, module, optimizer, loader = wrap(model, sampling_rate=1.0, max_physical_batch_size=4)
    with pytest.raises(RuntimeError, match=r"parameter '1\.weight' was changed within a logical step"):
        for i, (x, y) in enumerate(loader):
            if i == 1:
                model[1].weight.data.view(-1)[17 * 2048 + 5] += 1.0
            step(module, optimizer, x, y)
    assert engine.ledger.steps == 0


def test_a_home_made_update_at_the_end_of_a_step_is_refused() -> None:
    """Of one physical batch only: the gradient is that of its records, and it is used without noise."""
    engine, module, optimizer, loader = wrap(sampling_rate=1.0)
    with pytest.raises(RuntimeError, match="'weight' was changed within a logical step"):
        for x, y in loader:
            F.cross_entropy(module(x), y).backward()
            for p in module.parameters():
                if p.grad is not None:
                    p.data -= 0.1 * p.grad
            optimizer.step()
    assert engine.ledger.steps == 0


@pytest.mark.parametrize("way", ["in place", "other memory"])
def test_sharpness_aware_minimisation_moves_and_restores(way: str) -> None:
    engine, module, optimizer, loader = wrap(
        sampling_rate=1.0, max_physical_batch_size=4, grad_sample_mode="stream"
    )
    start = weights(module)
    for x, y in loader:
        F.cross_entropy(module(x), y).backward()
        with torch.no_grad():
            kept = [p.clone() for p in module.parameters()]
            for p in module.parameters():
                assert p.grad is not None
                p.add_(p.grad, alpha=0.05 / float(p.grad.norm()))
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        with torch.no_grad():
            for p, before in zip(module.parameters(), kept, strict=True):
                if way == "in place":
                    p.copy_(before)
                else:
                    p.data = before
        optimizer.step()
    assert engine.ledger.steps == 1
    assert not torch.equal(weights(module), start)


def test_between_logical_steps_anything_may_move_them() -> None:
    engine, module, optimizer, loader = wrap(sampling_rate=1.0, steps_per_epoch=3, max_physical_batch_size=8)
    best = copy.deepcopy(module._module.state_dict())
    for x, y in loader:
        step(module, optimizer, x, y)
        if optimizer.released:
            for p in module.parameters():
                p.data.clamp_(-0.1, 0.1)
            if optimizer.released_steps == 2:
                module._module.load_state_dict(best)
    assert engine.ledger.steps == 3


def test_after_a_dropped_step_too() -> None:
    x = X.clone()
    x[4] = torch.nan
    engine, module, optimizer, loader = wrap(
        data_loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, Y)), sampling_rate=1.0
    )
    with pytest.raises(NonFiniteGradientError):
        for inputs, labels in loader:
            step(module, optimizer, inputs, labels)
    x[4] = 0.0
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5)
    for inputs, labels in loader:
        step(module, optimizer, inputs, labels)
    assert engine.ledger.steps == 1


# Copies


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_a_private_optimizer_is_not_copied_and_later_ones_work(how: Callable[[Any], Any]) -> None:
    _, _, optimizer, _ = wrap()
    with pytest.raises(TypeError, match=r"cannot be copied or pickled.*save_checkpoint"):
        how(optimizer)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        how({"inside": optimizer} if how is not copy.copy else optimizer)
    for _ in range(2):
        engine, module, optimizer, loader = wrap(sampling_rate=1.0)
        for x, y in loader:
            step(module, optimizer, x, y)
        assert engine.ledger.steps == 1


def test_a_copy_of_the_module_is_for_evaluation() -> None:
    engine, module, optimizer, loader = wrap(sampling_rate=1.0, max_physical_batch_size=12)
    for x, y in loader:
        best = copy.deepcopy(module)
        again = pickle.loads(pickle.dumps(module))
        for found in (best, again):
            with pytest.raises(
                RuntimeError, match="training mode on records that did not come from the private"
            ):
                found(x)
        step(module, optimizer, x, y)
    assert engine.ledger.steps == 1
    assert not torch.equal(weights(best), weights(module))
    best.eval()
    assert best(X).shape == (len(X), 3)
    best(X).sum().backward()
    assert all(p.grad is None for p in module.parameters())


# Nothing was released


def test_a_guarantee_before_the_first_release_says_so() -> None:
    model = nn.Linear(4, 3)
    original = SGD(model.parameters(), lr=0.1)
    engine, *_ = wrap(model, optimizer=original)
    with pytest.raises(RuntimeError, match=r"nothing was released.*make_private returned"):
        engine.guarantee(delta=1e-3)
    statement = engine.statement(1e-3)
    assert statement.markdown().splitlines()[0] == "# Privacy statement, nothing was released"
    assert statement.text().startswith("Privacy statement, nothing was released.")
    assert statement.to_dict()["reservations"] == ["nothing was released"]
