"""The arguments that both ways to make a training private share."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_origin

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import NotRequired, get_type_hints

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.gradients.strategy import THRESHOLDS
from dpmi.privacy.physical_limit import PhysicalLimit
from dpmi.privacy.settings import Options, Settings

SIGNATURE = inspect.signature(PrivacyEngine.make_private).parameters


def settings(**changed: Any) -> Settings:
    module = nn.Linear(4, 3)
    arguments: dict[str, Any] = {
        "module": module,
        "optimizer": torch.optim.SGD(module.parameters(), lr=0.1),
        "data_loader": DataLoader(TensorDataset(torch.zeros(12, 4), torch.zeros(12))),
        "partition": Partition.by_column(np.arange(12) // 2),
        "sampling_rate": 0.3,
        "max_grad_norm": 2.0,
        **changed,
    }
    return Settings(**arguments)


def test_the_plan_is_that_of_the_settings() -> None:
    made = settings(max_records_per_bucket=1)
    plan = made.plan(1.5)
    assert plan.partition is made.partition
    assert (plan.sampling_rate, plan.noise_multiplier, plan.max_grad_norm) == (0.3, 1.5, 2.0)
    assert plan.records_of.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("changed", "steps"),
    [({}, 3), ({"steps_per_epoch": 7}, 7), ({"sampling_rate": 0.01}, 100), ({"sampling_rate": 0.9}, 1)],
)
def test_a_pass_draws_every_bucket_once_on_average(changed: dict[str, Any], steps: int) -> None:
    made = settings(**changed)
    assert made.steps_of_a_pass(made.plan(1.0)) == steps


def test_the_strategy_depends_on_the_parameters_that_train() -> None:
    module = nn.Linear(4, 3)
    module.bias.requires_grad_(False)
    made = settings(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        grad_sample_mode="hooks",
    )
    plan, limit = made.plan(1.0), PhysicalLimit(512)
    assert made.choice(plan, limit).max_buckets == THRESHOLDS["cpu"].rows_bytes // (4 * 12)
    assert settings().choice(plan, limit).strategy == "stream", "no criterion"


@pytest.mark.parametrize("name", ["max_physical_batch_size", "steps_per_epoch"])
def test_a_count_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        settings(**{name: 0})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"module": nn.BatchNorm1d(4)}, "BatchNorm1d"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)}, "optimizer"),
        ({"data_loader": [1, 2]}, "data_loader"),
        ({"criterion": 3}, "criterion is 3"),
    ],
)
def test_each_precondition_is_checked(changed: dict[str, Any], message: str) -> None:
    settings().check()
    with pytest.raises((TypeError, ValueError), match=message):
        settings(**changed).check()


def test_defaults_are_those_of_the_signature() -> None:
    for each in dataclasses.fields(Settings):
        default = SIGNATURE[each.name].default
        assert each.default == (dataclasses.MISSING if default is inspect.Parameter.empty else default), (
            each.name
        )


def test_a_target_takes_every_argument_but_the_noise() -> None:
    own = inspect.signature(PrivacyEngine.make_private_with_epsilon).parameters
    options = get_type_hints(Options, include_extras=True)
    assert SIGNATURE.keys() - {"noise_multiplier"} == options.keys() | (own.keys() & SIGNATURE.keys())
    optional = {name for name, kind in options.items() if get_origin(kind) is NotRequired}
    assert optional == {name for name in options if SIGNATURE[name].default is not inspect.Parameter.empty}
