"""What every defence promises, asked of every registered defence.

A new defence is named in ``CASES``, or the suite fails. A defence that trains in more than one way has a case
for each, named after a slash.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import FrozenInstanceError
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from dpmi.data import Split
from dpmi.defenses import Defense, Trained, get, names, train
from dpmi.metrics import accuracy

from .conftest import RECIPE, fit, softmax, weights


class Case(NamedTuple):
    """Settings with which softmax regression learns the digits, and a value that each field refuses."""

    settings: dict[str, object]
    refused: dict[str, object]


_PRIVATE = {
    "noise_multiplier": -0.5,
    "sampling_rate": 1.5,
    "max_grad_norm": 0.0,
    "delta": 1.0,
}
_RECORD = {"noise_multiplier": 0.8, "sampling_rate": 0.1, "max_grad_norm": 1.0, "delta": 1e-5}
CASES: dict[str, Case] = {
    "none": Case({}, {}),
    "record-dp": Case(_RECORD, {**_PRIVATE, "grad_sample_mode": "functorch"}),
    "record-dp/ghost": Case(
        {**_RECORD, "grad_sample_mode": "ghost"}, {**_PRIVATE, "grad_sample_mode": "functorch"}
    ),
    "class-dp": Case(
        {"noise_multiplier": 0.05, "sampling_rate": 0.5, "max_grad_norm": 1.0, "delta": 1e-2}, _PRIVATE
    ),
    "subclass-dp": Case(
        {
            "noise_multiplier": 0.1,
            "sampling_rate": 0.3,
            "max_grad_norm": 1.0,
            "delta": 1e-3,
            "clusters_per_class": 3,
        },
        {**_PRIVATE, "clusters_per_class": 0},
    ),
}


def kind(case: str) -> type[Defense]:
    return get(case.split("/", maxsplit=1)[0])


def make(case: str) -> Defense:
    return kind(case)(**CASES[case].settings)


@pytest.fixture(scope="module", params=sorted({*names(), *CASES}))
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in CASES, f"defence {request.param!r} is registered; give it settings in CASES"
    return str(request.param)


@pytest.fixture(scope="module")
def defense(name: str) -> Defense:
    return make(name)


@pytest.fixture(scope="module")
def trained(defense: Defense, split: Split) -> Trained:
    return fit(defense, split.train)


def test_is_a_frozen_dataclass_that_shows_its_parameters(name: str, defense: Defense) -> None:
    assert kind(name) is type(defense)
    assert defense.name == name.split("/", maxsplit=1)[0]
    for field in defense.fields():
        assert f"{field}={getattr(defense, field)!r}" in repr(defense)
        with pytest.raises(FrozenInstanceError):
            setattr(defense, field, None)
    with pytest.raises(TypeError, match="positional"):
        type(defense)(1.0)
    assert defense == make(name)
    assert hash(defense) == hash(make(name))


def test_declares_its_flags(defense: Defense) -> None:
    assert defense.loss_scope in ("per_sample", "batch_coupled")
    assert isinstance(defense.stochastic_forward, bool)
    assert isinstance(defense.needs_pretrained, bool)


def test_strength_and_label(name: str, defense: Defense) -> None:
    if defense.strength_field is None:
        assert math.isnan(defense.strength)
        assert defense.label == defense.name
    else:
        assert defense.strength == CASES[name].settings[defense.strength_field]
        assert (
            defense.label
            == f"{defense.name}, {defense.strength_field.replace('_', ' ')} {defense.strength:g}"
        )


def test_refuses_what_is_out_of_range(name: str, defense: Defense) -> None:
    case = CASES[name]
    assert set(case.refused) == set(defense.fields()), "name a refused value of every field"
    for field, value in case.refused.items():
        with pytest.raises(ValueError, match=rf"{field} must be .* got {value!r}"):
            kind(name)(**{**case.settings, field: value})


def test_learns(trained: Trained, split: Split) -> None:
    """A tenth is chance."""
    assert accuracy(trained.model, split.test.images, split.test.labels) > 0.7


def test_takes_and_bills_exactly_the_steps_of_the_recipe(defense: Defense, split: Split) -> None:
    updates: list[object] = []
    reports: list[tuple[int, int]] = []
    model = softmax()
    ours = {id(p) for p in model.parameters()}

    def count(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if {id(p) for group in optimizer.param_groups for p in group["params"]} <= ours:
            updates.append(optimizer)

    handle = register_optimizer_step_post_hook(count)
    try:
        trained = train(
            defense,
            model,
            split.train,
            RECIPE,
            seed=0,
            progress=lambda done, total: reports.append((done, total)),
        )
    finally:
        handle.remove()
    # A wrapping optimizer may be counted beside the one that it wraps: count the one that updates.
    plain = [o for o in updates if type(o) is torch.optim.SGD]
    assert len(plain) == RECIPE.steps
    assert reports == [(done, RECIPE.steps) for done in range(1, RECIPE.steps + 1)]
    if trained.account is not None:
        assert trained.account.ledger.steps == RECIPE.steps


def test_same_seed_same_parameters(defense: Defense, trained: Trained, split: Split) -> None:
    assert torch.equal(weights(fit(defense, split.train).model), weights(trained.model))
    assert not torch.equal(weights(fit(defense, split.train, seed=1).model), weights(trained.model))


def test_global_randomness_is_left_alone(defense: Defense, split: Split) -> None:
    """Also where the forward pass draws numbers: Dropout draws from the seed."""

    def dropout() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.2), softmax())

    before = torch.get_rng_state()
    first = fit(defense, split.train, model=dropout())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(weights(fit(defense, split.train, model=dropout()).model), weights(first.model))


def test_returned_model_is_plain(defense: Defense, trained: Trained, split: Split) -> None:
    plain = defense.build(softmax())
    assert [type(m) for m in trained.model.modules()] == [type(m) for m in plain.modules()]
    for module, fresh in zip(trained.model.modules(), plain.modules(), strict=True):
        assert not module.training
        assert set(vars(module)) == set(vars(fresh))
        for hooks in (key for key in vars(fresh) if "hooks" in key):
            assert not getattr(module, hooks), hooks
    for p in trained.model.parameters():
        assert vars(p) == {}
        assert p.grad is None
        assert not p._backward_hooks
        assert not p._post_accumulate_grad_hooks
        assert p.requires_grad


def test_returned_model_can_be_trained_again(defense: Defense, trained: Trained, split: Split) -> None:
    again = fit(defense, split.train, model=deepcopy(trained.model))
    assert accuracy(again.model, split.test.images, split.test.labels) > 0.7


def test_state_loads_into_a_fresh_model(defense: Defense, trained: Trained, split: Split) -> None:
    fresh = defense.build(softmax()).eval()
    fresh.load_state_dict(trained.model.state_dict())
    assert torch.equal(fresh(split.test.images), trained.model(split.test.images))


def test_data_are_left_alone(defense: Defense, split: Split) -> None:
    images, labels = split.train.images.clone(), split.train.labels.clone()
    fit(defense, split.train)
    assert torch.equal(split.train.images, images)
    assert torch.equal(split.train.labels, labels)
    assert not split.train.images.requires_grad
    assert split.train.images.grad is None


def test_training_is_silent(
    defense: Defense, split: Split, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(defense, split.train)
    assert [str(w.message) for w in recwarn] == []
    assert capfd.readouterr() == ("", "")


def test_guarantee_carries_the_unit(defense: Defense, trained: Trained) -> None:
    if defense.unit == "none":
        assert trained.account is None
        return
    assert trained.account is not None
    guarantee = trained.account.guarantee(1e-6)
    assert guarantee.unit == defense.unit
    assert 0 < guarantee.epsilon < math.inf
    assert guarantee.steps == RECIPE.steps


def test_seeded_run_guarantees_nothing_and_says_why(defense: Defense, trained: Trained) -> None:
    if trained.account is None:
        return
    guarantee = trained.account.guarantee(1e-6)
    assert not guarantee.is_guarantee
    assert any("came from a user's seed" in caveat for caveat in guarantee.caveats)
    assert "came from a user's seed" in trained.account.statement(1e-6).markdown()


def test_loss_is_a_mean_over_the_batch(defense: Defense, split: Split) -> None:
    """Twice the same records, the same loss; and it has a gradient for every trainable parameter."""
    model = defense.build(softmax())
    images, labels = split.train.images[:16], split.train.labels[:16]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return defense.loss(model, x.clone(), y, 0.5)

    once, twice = loss(images, labels), loss(images.repeat(2, 1, 1, 1), labels.repeat(2))
    assert once.shape == ()
    torch.testing.assert_close(once, twice)
    once.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in defense.trainable(model))
