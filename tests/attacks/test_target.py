"""What the target counts, and when a budget is spent."""

import pytest
import torch
from torch import nn

from dpmi.attacks import Budget, LabelsOnly, Target

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
IMAGES = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_a_gradient_call_is_counted_where_a_gradient_is_asked_for() -> None:
    target = Target(MODEL)
    target.logits(IMAGES)
    with torch.no_grad():
        target.logits(IMAGES.clone().requires_grad_())
    target.labels(IMAGES)
    assert (target.queries, target.grad_calls) == (15, 0)
    target.logits(IMAGES.clone().requires_grad_())
    assert (target.queries, target.grad_calls) == (20, 5)


def test_features_are_what_the_head_gets() -> None:
    logits, features = Target(MODEL).logits_and_features(IMAGES)
    torch.testing.assert_close(features, MODEL[:3](IMAGES))
    torch.testing.assert_close(logits, MODEL(IMAGES))


def test_affords_up_to_the_limit_and_keeps_the_reserve() -> None:
    target = Target(MODEL, budget=Budget(queries=20, grad_calls=5), reserve=10)
    assert target.affords(queries=10)
    assert target.stopped_by is None
    assert not target.affords(queries=11)
    assert target.stopped_by == "queries"
    assert not target.affords(queries=1, grad_calls=6)
    assert target.stopped_by == "grad_calls"
    target.logits(IMAGES)
    assert target.affords(queries=5)
    assert not target.affords(queries=6)


def test_time_is_a_budget_too() -> None:
    assert not Target(MODEL, budget=Budget(seconds=1e-9)).affords(queries=1)
    assert Target(MODEL, budget=Budget(seconds=3600)).affords(queries=1)


@pytest.mark.parametrize(("name", "value"), [("queries", 0), ("grad_calls", -1), ("seconds", 0.0)])
def test_refuses_a_limit_that_is_none(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value}"):
        Budget(**{name: value})


def test_labels_only_answers_with_the_class_and_no_gradient() -> None:
    hidden = LabelsOnly(MODEL)
    answer = hidden(IMAGES.clone().requires_grad_())
    assert not answer.requires_grad
    assert torch.equal(answer.argmax(dim=1), MODEL(IMAGES).argmax(dim=1))
    assert set(answer.unique().tolist()) == {0.0, 1.0}
    labels = MODEL(IMAGES).argmax(dim=1)
    assert Target(hidden).confidence(IMAGES, labels).tolist() == [1.0] * 5
    assert Target(hidden).confidence(IMAGES, (labels + 1) % 3).tolist() == [0.0] * 5


def test_digest_knows_weights_and_architecture() -> None:
    first = Target(nn.Linear(4, 2))
    again = nn.Linear(4, 2)
    again.load_state_dict(first._module.state_dict())
    assert Target(again).digest() == first.digest()
    with torch.no_grad():
        again.weight[0, 0] += 1e-6
    assert Target(again).digest() != first.digest()
    assert Target(nn.Sequential(nn.Linear(4, 2))).digest() != first.digest()
