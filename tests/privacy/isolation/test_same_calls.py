"""Every pass makes the calls of the dry runs, with the same arguments and on the same tensors.

Modules: dpmi/privacy/isolation/arguments.py, dpmi/privacy/isolation/follow.py, dpmi/privacy/isolation/program.py,
dpmi/privacy/isolation/step.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.isolation.follow import Following
from dpmi.privacy.isolation.labels import Coupled, Records
from dpmi.privacy.isolation.program import RECORDS, Program
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.step import Step

Function = Callable[[Tensor], Tensor]


def followed(
    function: Function, records: int, program: Program | None = None, *, wide: int = 4
) -> list[Step]:
    """The calls of one pass."""
    following, x = Following(PublicTensors(nn.Module()), records), torch.rand(records, wide)
    following.take_in(x, Records(0))
    following.begin_pass([x], program)
    with following:
        out = function(x)
    following.finish([out])
    return following.trace


LEARNED = range(1, 9)
PASSES = {"first": (), "known": LEARNED}
earlier: list[int] = []


@pytest.fixture(autouse=True, params=PASSES.values(), ids=PASSES)
def _earlier(request: pytest.FixtureRequest) -> None:
    """Everything holds for the first pass over so many records, and for a later one, whose calls need no rules."""
    earlier[:] = request.param


def program_of(function: Function) -> Program:
    program = Program.of(*(followed(function, n) for n in RECORDS))
    for n in earlier:
        followed(function, n, program)
    return program


SAME: dict[str, Function] = {
    "zeros": lambda x: x + torch.zeros(len(x), 1),
    "full": lambda x: x + torch.full((len(x), 4), 2.0),
    "view": lambda x: x.view(len(x) * 2, 2).view(len(x), -1),
    "draws": lambda x: x * torch.rand(len(x), 1),
    "expand": lambda x: x + torch.ones(1).expand(len(x), 4),
    "repeat": lambda x: x + torch.ones(1, 4).repeat(len(x), 1),
    "tile": lambda x: x + torch.tile(torch.ones(1, 4), (len(x), 1)),
}


@pytest.mark.parametrize("records", [1, 2, 7])
@pytest.mark.parametrize("name", SAME)
def test_sizes_follow_the_number_of_records(name: str, records: int) -> None:
    assert followed(SAME[name], records, program_of(SAME[name]))


BY_SIZE: dict[str, tuple[Function, str]] = {
    "divided": (lambda x: x / len(x), "gets .* for 2 records, but .* for 3"),
    "one more": (lambda x: torch.zeros(len(x) + 1, 1)[:1] + x, "not a multiple of their number"),
    "value of full": (lambda x: x + torch.full((1,), len(x)), "gets .* for 2 records, but .* for 3"),
    "more calls": (lambda x: x.sin() if len(x) == 2 else x.sin().cos(), "depends on the number of records"),
    "another call": (lambda x: x.sin() if len(x) == 2 else x.cos(), "cos is called for 3 records, but sin"),
    "a list of its own": (lambda x: x * np.float32(2), "argument of type float32"),
}


@pytest.mark.parametrize("name", BY_SIZE)
def test_nothing_else_does(name: str) -> None:
    function, match = BY_SIZE[name]
    with pytest.raises(Coupled, match=match):
        program_of(function)


LATER: dict[str, tuple[Function, Function]] = {
    "another function": (torch.sin, torch.cos),
    "another number": (lambda x: x * 2, lambda x: x * 3),
    "another type of number": (lambda x: x * 1, lambda x: x * 1.0),
    "another keyword": (lambda x: x.sum(1, keepdim=True), lambda x: x.sum(1, keepdim=False)),
    "another operand": (lambda x: (x.sin(), x.cos())[0] * 2, lambda x: (x.sin(), x.cos())[1] * 2),
    "operands changed": (lambda x: x.sin() - x, lambda x: x - x.sin()),
    "another output": (lambda x: (x.sin(), x.cos())[0], lambda x: (x.sin(), x.cos())[1]),
    "a call more": (lambda x: x.sin(), lambda x: x.sin().cos()),
    "a call less": (lambda x: x.sin().cos(), lambda x: x.sin()),
    "a size that did not follow": (lambda x: x + torch.zeros(1, 4), lambda x: x + torch.zeros(len(x), 4)),
    "another size that follows": (lambda x: x.view(-1, 2), lambda x: x.view(-1, 1)),
}


@pytest.mark.parametrize("name", LATER)
def test_a_later_pass_that_computes_something_else_is_refused(name: str) -> None:
    """Before the call is made that differs, so that it writes nothing."""
    dry, later = LATER[name]
    program = program_of(dry)
    assert followed(dry, 5, program)
    at_end = name in ("another output", "a call less")
    with pytest.raises(
        Coupled, match="the end of the pass returned other" if at_end else r"dry runs: call \d is"
    ):
        followed(later, 5, program)


def test_a_pass_without_gradients_is_another_one() -> None:
    program = program_of(torch.sin)
    with torch.no_grad(), pytest.raises(Coupled, match="differs from the dry runs"):
        followed(torch.sin, 5, program)


def test_records_of_another_shape_are_refused() -> None:
    """Such as texts that are padded to the longest of all buckets."""
    with pytest.raises(Coupled, match="returned other shapes or tensors than in the dry runs"):
        followed(torch.sin, 5, program_of(torch.sin), wide=6)
