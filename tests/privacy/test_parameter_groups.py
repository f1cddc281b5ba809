"""Clipping with a norm for every param group: whole updates against brute force, the bound, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from dpmi.privacy import GroupClipping, NonFiniteGradientError
from dpmi.privacy.audit import Audit
from dpmi.privacy.clipping import Clipping
from dpmi.privacy.gradients.bucket_gradients import Ghost, Rows
from dpmi.privacy.parameter_groups import ParameterGroups

from .gradients.test_bucket_gradients import SIZES, gradients_of
from .reference import brute_force, private_run, relative_error
from .test_update import TOLERANCE, problem

GROUPS = ((2, 3), (1,), (0,))
"""Places of the parameters of two layers; the last layer comes first, and the first is split."""

CLIPPING = GroupClipping(relative_norms=(2.0, 1.0, 2.0))
NORMS = {group: 0.3 * relative / 3 for group, relative in zip(GROUPS, (2.0, 1.0, 2.0), strict=True)}


@pytest.mark.parametrize("max_physical_batch_size", [512, 9, 1])
@pytest.mark.parametrize("mode", ["stream", "hooks", "ghost"])
def test_an_update_equals_brute_force(mode: str, max_physical_batch_size: int) -> None:
    model, x, y, partition = problem("linear")
    start = copy.deepcopy(model)
    run = private_run(
        model,
        x,
        y,
        partition,
        epochs=3,
        groups=GROUPS,
        clipping=CLIPPING,
        max_physical_batch_size=max_physical_batch_size,
        grad_sample_mode=mode,
    )
    assert relative_error(model, brute_force(start, x, y, partition, run.steps)) > 1e-2, "not that of flat"
    assert relative_error(model, brute_force(start, x, y, partition, run.steps, groups=NORMS)) < TOLERANCE


def groups_of(clipping: Clipping, trained: list[nn.Parameter]) -> ParameterGroups:
    optimizer = torch.optim.SGD([{"params": [trained[i] for i in group]} for group in GROUPS], lr=1.0)
    return ParameterGroups.of(clipping, optimizer, trained)


@pytest.mark.parametrize("kind", ["rows", "ghost"])
def test_the_parts_of_a_gradient_are_its_groups(kind: str) -> None:
    whole, trained, _ = gradients_of(kind, SIZES)
    assert isinstance(whole, Rows | Ghost)
    parts = groups_of(CLIPPING, trained).split(whole)
    for part, group in zip(parts, GROUPS, strict=True):
        for i, (own, all_) in enumerate(zip(part.of(1), whole.of(1), strict=True)):
            assert (own is not None) == (i in group)
            if own is not None and all_ is not None:
                torch.testing.assert_close(own, all_)
    squares = torch.stack([part.norms().square() for part in parts]).sum(0)
    torch.testing.assert_close(squares.sqrt(), whole.norms(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["flat", "automatic"])
def test_one_norm_for_all_parameters_is_one_group(kind: Clipping) -> None:
    whole, trained, _ = gradients_of("rows", SIZES)
    assert isinstance(whole, Rows | Ghost)
    groups = groups_of(kind, trained)
    assert groups.split(whole) == (whole,)
    assert groups.norms(0.3) == (0.3,)


def test_a_group_that_the_loss_does_not_reach_adds_nothing() -> None:
    rows = Rows([torch.tensor([[3.0], [1.0]]), None]).only(frozenset({1}))
    assert rows.norms().tolist() == [0.0, 0.0]


def test_all_groups_together_are_as_long_as_the_bound() -> None:
    norms = GroupClipping(relative_norms=(1.0, 5.0, 0.01)).norms(0.7)
    assert math.hypot(*norms) == pytest.approx(0.7, rel=1e-12)
    assert norms[1] / norms[0] == pytest.approx(5.0)


def test_a_whole_run_never_moves_further_than_the_bound() -> None:
    model, x, y, partition = problem("linear")
    before = [p.detach().clone() for p in model.parameters()]
    run = private_run(
        model,
        x,
        y,
        partition,
        groups=GROUPS,
        clipping=GroupClipping(relative_norms=(1.0, 1.0, 1.0)),
        max_grad_norm=1e-3,  # so short that every group of every bucket is clipped
        sampling_rate=1.0,
    )
    [step] = run.steps
    buckets = len({int(partition.bucket_of[i]) for i in step})
    moved = math.hypot(
        *(float((p.detach() - b).norm()) for p, b in zip(model.parameters(), before, strict=True))
    )
    assert buckets == partition.num_buckets
    assert moved <= 0.2 * 1e-3 * (1 + 1e-5), "learning rate times S, if all buckets agree"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((), ValueError, "relative_norms is empty"),
        ((1.0, 0.0), ValueError, "relative_norms must be above 0, got 0.0"),
        ((1.0, math.nan), ValueError, "relative_norms"),
        ((1.0, "2"), TypeError, "relative_norms"),
        ("12", TypeError, "relative_norms must be a list of numbers, got '12'"),
        (2.0, TypeError, "relative_norms must be a list of numbers, got 2.0"),
    ],
)
def test_norms_that_are_none_are_refused(given: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GroupClipping(relative_norms=given)  # type: ignore[arg-type]


def test_one_norm_for_every_group_of_the_optimizer_is_needed() -> None:
    model, x, y, partition = problem("linear")
    with pytest.raises(
        ValueError, match=r"relative_norms has 3 numbers, but the optimizer has 2 param groups"
    ):
        private_run(model, x, y, partition, groups=((0, 1), (2, 3)), clipping=CLIPPING)


class Overflows(nn.Module):
    """Its own parameter, the first one, has an infinite gradient; the layer's gradients are finite."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(6, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + (self.scale * 1e30) * (x[:, :3] * 1e30)


def test_a_gradient_that_is_not_finite_in_one_group_releases_nothing() -> None:
    _, x, y, partition = problem("linear")
    model = Overflows()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteGradientError, match="norm inf; the logical step was dropped"):
        private_run(
            model,
            x,
            y,
            partition,
            groups=((1, 2), (0,)),
            clipping=GroupClipping(relative_norms=(1.0, 1.0)),
            grad_sample_mode="stream",
        )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_audit_of_several_norms_is_refused() -> None:
    model, x, y, partition = problem("linear")
    with pytest.raises(
        ValueError, match=r"one fixed max_grad_norm for all parameters.*clipping is GroupClipping"
    ):
        private_run(model, x, y, partition, groups=GROUPS, clipping=CLIPPING, audit=Audit(canaries=4))


def test_a_training_does_not_resume_with_other_norms(tmp_path: object) -> None:
    model, x, y, partition = problem("linear")
    path, settings = f"{tmp_path}/checkpoint.pt", {"groups": GROUPS, "noise_multiplier": 1.0}
    private_run(model, x, y, partition, clipping=CLIPPING, **settings).engine.save_checkpoint(path)  # type: ignore[arg-type]
    other = private_run(
        copy.deepcopy(model),
        x,
        y,
        partition,
        epochs=0,
        clipping=GroupClipping(relative_norms=(2.0, 1.0, 1.0)),
        **settings,  # type: ignore[arg-type]
    ).engine
    with pytest.raises(ValueError, match="clipping"):
        other.load_checkpoint(path)
