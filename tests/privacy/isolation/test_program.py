"""Two dry runs make a program: what follows the number of records is its multiple, and all else is fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dpmi.privacy.isolation.labels import Coupled
from dpmi.privacy.isolation.program import Program
from dpmi.privacy.isolation.step import Step


def step(
    func: Callable[..., Any] | None,
    *args: Any,
    shapes: tuple[tuple[int, ...], ...] = (),
    grad: bool = True,
    **kwargs: Any,
) -> Step:
    return Step(func, (args, tuple(kwargs.items()), grad), shapes)


def relu(n: int) -> Step:
    return step(torch.relu, ("made by", 0), shapes=((n, 5),))


def test_the_program_of_equal_calls_is_these_calls() -> None:
    calls = [step(torch.relu, ("made by", 0), shapes=((5,),)), Step(None, (("made by", 0),), ())]
    program = Program.of(calls, calls)
    assert [program.step(i, 7) for i in range(3)] == [*calls, None]
    assert program.following == ((frozenset(),), ())


def test_sizes_that_follow_the_number_of_records_are_multiples_of_it() -> None:
    two, three = (
        [
            step(torch.zeros, 4 * n, 6, shapes=((4 * n, 6),)),
            step(torch.relu, ("made by", 0), shapes=((4 * n, 6),)),
        ]
        for n in (2, 3)
    )
    program = Program.of(two, three)
    assert program.following == ((frozenset({0}),), (frozenset({0}),))
    assert program.step(0, 5) == step(torch.zeros, 20, 6, shapes=((20, 6),))


@pytest.mark.parametrize(
    "made",
    [
        lambda n: step(torch.zeros, n, 3),
        lambda n: step(torch.zeros, (n, 3)),
        lambda n: step(torch.zeros, size=(n, 3)),
        lambda n: step(torch.full, (n,), (float, 0.5)),
        lambda n: step(Tensor.view, ("made by", 0), n, -1),
        lambda n: step(Tensor.reshape, ("made by", 0), (3, n)),
        lambda n: step(Tensor.expand, ("made by", 0), n, -1),
        lambda n: step(Tensor.new_full, ("made by", 0), (n,), 1),
        lambda n: step(Tensor.__getitem__, ("made by", 0), (slice, None, n, None)),
    ],
)
def test_sizes_may_follow_where_sizes_stand(made: Callable[[int], Step]) -> None:
    assert Program.of([made(2)], [made(3)]).step(0, 4) == made(4)


@pytest.mark.parametrize(
    "made",
    [
        lambda n: step(torch.add, ("made by", 0), n),
        lambda n: step(torch.mul, ("made by", 0), other=n),
        lambda n: step(torch.full, (4,), n),
        lambda n: step(Tensor.new_full, ("made by", 0), (4,), n),
        lambda n: step(torch.zeros, 4, dtype=n),
        lambda n: step(torch.zeros, (float, 1.0 * n)),
        lambda n: step(torch.sum, ("made by", 0), n - 2),
        lambda n: step(torch.add, ("made by", n - 2), 1),
        lambda n: Step(None, (("made by", n),), ()),
    ],
)
def test_a_number_that_follows_them_where_no_size_stands_is_refused(made: Callable[[int], Step]) -> None:
    with pytest.raises(Coupled, match=r"depends on the number of records"):
        Program.of([made(2)], [made(3)])


@pytest.mark.parametrize(("two", "three"), [(5, 7), (3, 4), (4, 5), (4, 3), (2, 2 + 3)])
def test_a_size_that_is_no_multiple_of_their_number_is_refused(two: int, three: int) -> None:
    with pytest.raises(Coupled, match=f"is {two} for 2 records and {three} for 3, which is not a multiple"):
        Program.of([step(torch.zeros, two)], [step(torch.zeros, three)])
    with pytest.raises(Coupled, match="not a multiple"):
        Program.of([step(torch.relu, shapes=((two,),))], [step(torch.relu, shapes=((three,),))])


def test_other_calls_are_refused() -> None:
    with pytest.raises(Coupled, match="tanh is called for 3 records, but relu for 2"):
        Program.of([relu(2)], [step(torch.tanh, ("made by", 0), shapes=((3, 5),))])
    with pytest.raises(Coupled, match="1 calls are made for 2 records, but 2 for 3"):
        Program.of([relu(2)], [relu(3), relu(3)])
    with pytest.raises(Coupled, match="2 calls are made for 2 records, but 1 for 3"):
        Program.of([relu(2), relu(2)], [relu(3)])


@pytest.mark.parametrize(
    ("second", "match"),
    [
        (step(torch.relu, ("made by", 0), 1, shapes=((3, 5),)), "the arguments of relu depend"),
        (step(torch.relu, ("made by", 0), inplace=True, shapes=((3, 5),)), "the arguments of relu depend"),
        (step(torch.relu, ("made by", 0), shapes=((3, 5),), grad=False), "the arguments of relu depend"),
        (step(torch.relu, ("made by", 0), shapes=((3, 5), (3,))), "the number of tensors that relu returns"),
        (step(torch.relu, ("made by", 0), shapes=((3, 5, 1),)), "the number of dimensions that relu returns"),
    ],
)
def test_what_else_differs_is_refused(second: Step, match: str) -> None:
    with pytest.raises(Coupled, match=match):
        Program.of([relu(2)], [second])
