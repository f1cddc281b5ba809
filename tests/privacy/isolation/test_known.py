"""A pass over as many records as an earlier one needs no rules, and allows nothing that they would refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.privacy.isolation.follow import Following
from dpmi.privacy.isolation.labels import Coupled, Label, Records
from dpmi.privacy.isolation.program import Program
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.rules import RULES, Call

N = 4


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.other = nn.Parameter(self.weight.detach().clone())
        self.register_buffer("grid", torch.randn(2, 5))
        self.table = torch.randn(5)


MODEL = Model()
PUBLIC = PublicTensors(MODEL)
FIRST = Records(0)
Forward = Callable[[Tensor], Tensor]


def follow(
    forward: Forward, x: Tensor | None = None, program: Program | None = None, label: Records = FIRST
) -> Following:
    x = torch.rand(N, 5) if x is None else x
    following = Following(PUBLIC, x.shape[label.dim])
    following.take_in(x, label)
    following.begin_pass([x], program)
    with following:
        out = forward(x)
    following.finish([out])
    return following


def program_of(forward: Forward) -> Program:
    return Program.of(*(follow(forward, torch.rand(n, 5)).trace for n in (2, 3)))


def learned(forward: Forward) -> Program:
    program = program_of(forward)
    assert not follow(forward, program=program).is_known
    assert follow(forward, program=program).is_known
    return program


def many(x: Tensor) -> Tensor:
    h = F.linear(x, MODEL.weight).relu_()
    a, b = torch.cat([h, h * 2.0], 1).chunk(2, dim=1)
    index = torch.arange(3)
    return (
        (a[:, 1:] + b[:, :2]).view(len(x), 2)
        + x.new_zeros(len(x), 1)
        + h[:, index].contiguous().sum(1, keepdim=True)
    )


def test_its_calls_need_no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    program = learned(many)
    asked: list[Any] = []
    monkeypatch.setattr(Following, "_label_of", lambda *_: asked.append(_))
    known = follow(many, program=program)
    assert not asked
    assert len(known.trace) > 10


def test_it_makes_the_same_calls_and_labels() -> None:
    labels: list[Any] = []

    def noted(x: Tensor) -> Tensor:
        out = many(x)
        labels.append(out._dpmi[3:])  # type: ignore[attr-defined]
        return out

    program = program_of(noted)
    first = follow(noted, program=program)
    known = follow(noted, program=program)
    assert known.is_known
    assert labels[-1] == labels[-2]
    assert [s.func for s in known.trace] == [s.func for s in first.trace]


def test_each_number_of_records_is_followed_once() -> None:
    """What is stored does not grow with them."""
    program = program_of(many)
    for n in (1, 5, 6, 7):
        assert not follow(many, torch.rand(n, 5), program).is_known
        assert follow(many, torch.rand(n, 5), program).is_known
    assert len(program.known) == len(follow(many, program=program).trace)


def test_a_pass_with_other_labels_is_followed_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a rule decided differently for another number of records, its decision would hold for that number."""

    def by_number(call: Call) -> Label:
        return Records(0, 1 if call.records < 6 else call.records)

    def forward(x: Tensor) -> Tensor:
        return x.sin()

    program = learned(forward)
    monkeypatch.setitem(RULES, Tensor.sin, by_number)
    for _ in range(2):
        assert not follow(forward, torch.rand(6, 5), program).is_known
    follow(forward, torch.rand(5, 5), program)
    assert follow(forward, torch.rand(5, 5), program).is_known


@pytest.mark.parametrize(
    "x",
    [torch.rand(N, 5).double(), torch.rand(5, N).T, torch.rand(1, 5).expand(N, 5)],
    ids=["type", "layout", "expanded"],
)
def test_other_inputs_are_followed(x: Tensor) -> None:
    def forward(x: Tensor) -> Tensor:
        return x.sin() + 1

    program = learned(forward)
    assert not follow(forward, x, program).is_known
    assert follow(forward, x, program).is_known


def test_records_in_another_dimension_are_followed() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    program, square = program_of(forward), torch.rand(5, 5)
    for _ in range(2):
        follow(forward, square, program)
    with pytest.raises(Coupled, match="a second dimension follows the number of records"):
        follow(forward, square, program, label=Records(1))


CALL: Forward = lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2], 0, 1)  # noqa: E731

OTHERS: dict[str, Forward] = {
    "another function": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2].sin(), 0, 1),
    "another number": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2], 0, 2),
    "a number of another type": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2], 0, 1.0),
    "a truth for a number": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2], 0, True),
    "another slice": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 1:3], 0, 1),
    "a longer index": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2, None], 0, 1),
    "a name for a position": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2], 0, max=1),
    "one argument less": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2], 0),
    "another weight": lambda x: torch.clamp(F.linear(x, MODEL.other)[:, 0:2], 0, 1),
    "one call more": lambda x: torch.clamp(F.linear(x, MODEL.weight)[:, 0:2], 0, 1).sin(),
    "one call less": lambda x: F.linear(x, MODEL.weight)[:, 0:2],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_call_is_refused(other: Forward) -> None:
    program = learned(CALL)
    with pytest.raises(Coupled, match="differs from the dry runs"):
        follow(other, program=program)


def test_another_name_is_refused() -> None:
    program = learned(lambda x: torch.clamp(x, min=1))
    with pytest.raises(Coupled, match="differs from the dry runs"):
        follow(lambda x: torch.clamp(x, max=1), program=program)


def test_another_tensor_of_the_pass_is_refused() -> None:
    program = learned(lambda x: (a := x.sin(), b := x.cos(), a + b)[2])
    with pytest.raises(Coupled, match="differs from the dry runs"):
        follow(lambda x: (a := x.sin(), x.cos(), a + a)[2], program=program)


def test_a_pass_without_gradients_is_another_one() -> None:
    program = learned(CALL)
    with torch.no_grad(), pytest.raises(Coupled, match="differs from the dry runs"):
        follow(CALL, program=program)


def test_a_tensor_of_an_earlier_pass_is_unknown() -> None:
    old: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        old.append(x.sin())
        return old[-1] + x

    program = learned(forward)
    with pytest.raises(Coupled, match="origin of a tensor"):
        follow(lambda x: (x.sin(), old[0] + x)[1], program=program)


def test_a_tensor_that_was_modified_unobserved_is_refused() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.sin() + 1

    def modified(x: Tensor) -> Tensor:
        h = x.sin()
        with torch._C.DisableTorchFunction():
            h.add_(h.sum())
        return h + 1

    program = learned(forward)
    with pytest.raises(Coupled, match="modified in place by a call that cannot be observed"):
        follow(modified, program=program)


def test_a_modified_attribute_is_no_longer_public() -> None:
    def forward(x: Tensor) -> Tensor:
        return x * MODEL.table

    program = learned(forward)
    before = PUBLIC._known[id(MODEL.table)]
    try:
        MODEL.table.mul_(2)
        with pytest.raises(Coupled, match="origin of a tensor"):
            follow(forward, program=program)
    finally:
        PUBLIC._known[id(MODEL.table)] = (before[0], before[1], MODEL.table._version)


def test_a_parameter_whose_memory_was_replaced_is_followed() -> None:
    """Its rows may differ between records now, and nothing else compares its shape and layout."""

    def forward(x: Tensor) -> Tensor:
        return x + MODEL.other

    before = MODEL.other.data
    try:
        MODEL.other.data = torch.randn(1, 5).expand(N, 5)
        steps = follow(forward).trace
        program = Program.of(steps, steps)
        for _ in range(2):
            follow(forward, program=program)
        MODEL.other.data = torch.randn(N, 5)
        with pytest.raises(Coupled, match="differ between records"):
            follow(forward, program=program)
    finally:
        MODEL.other.data = before


def test_a_pass_that_is_refused_at_its_end_is_not_known() -> None:
    class Refusing(Following):
        def check_outputs(self, outputs: Any) -> None:
            raise Coupled("an output")

    def forward(x: Tensor) -> Tensor:
        return x.sin()

    program = program_of(forward)
    for _ in range(2):
        x = torch.rand(N, 5)
        following = Refusing(PUBLIC, N)
        following.take_in(x, Records(0))
        following.begin_pass([x], program)
        with following:
            out = forward(x)
        assert not following.is_known
        with pytest.raises(Coupled, match="an output"):
            following.finish([out])


def test_shapes_are_compared_although_the_call_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_value(call: Call) -> Label:
        return call.labels[0]

    monkeypatch.setitem(RULES, Tensor.nonzero, by_value)
    monkeypatch.setitem(RULES, Tensor.unbind, by_value)
    steps = follow(Tensor.nonzero, torch.ones(N, 5)).trace
    program = Program.of(steps, steps)
    for _ in range(2):
        follow(Tensor.nonzero, torch.ones(N, 5), program)
    with pytest.raises(Coupled, match="other shapes than in the dry runs"):
        follow(Tensor.nonzero, torch.eye(N, 5), program)


def test_what_is_public_stays_public() -> None:
    """A call that returns its operand gives it no label of the pass."""

    def forward(x: Tensor) -> Tensor:
        return x + MODEL.grid.contiguous()[:1]

    program = learned(forward)
    follow(forward, program=program)
    assert not hasattr(MODEL.grid, "_dpmi")


def test_an_operand_that_is_returned_keeps_its_label() -> None:
    def forward(x: Tensor) -> Tensor:
        h = x.sin()
        return h.contiguous() + h

    program = learned(forward)
    assert follow(forward, program=program).is_known
