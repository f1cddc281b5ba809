"""What the rules have in common: reading arguments, and the labels of operands that meet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dpmi.privacy.isolation import operands
from dpmi.privacy.isolation.labels import PUBLIC, SAME, Coupled, Label, Public, Records
from dpmi.privacy.isolation.rules import Call

N = 4
HELD = torch.zeros(N, 6)


def call(*args: Any, labels: list[Label] | None = None, **kwargs: Any) -> Call:
    tensors = [value for value in args if isinstance(value, Tensor)]
    return Call(torch.add, args, kwargs, tensors, labels or [Records(0)] * len(tensors), N)


def public(*dims: int) -> Public:
    """Constant along these dimensions."""
    return Public(frozenset(dims))


def following(*dims: int) -> Public:
    return Public(following=frozenset(dims))


def test_an_argument_is_found_by_position_or_by_one_of_its_names() -> None:
    assert operands.argument(call(HELD, 7), 1, "dim") == 7
    assert operands.argument(call(HELD, axis=7), 1, "dim", "axis") == 7
    assert operands.argument(call(HELD), 1, "dim", default=3) == 3


@pytest.mark.parametrize("made", [call(HELD, 1, 2), call(HELD, (1, 2)), call(HELD, size=(1, 2))])
def test_sizes_may_be_passed_in_three_ways(made: Call) -> None:
    assert tuple(operands.variadic(made, "size")) == (1, 2)


def test_dimensions_are_counted_from_zero() -> None:
    assert operands.dimension(call(HELD), -1, 3) == 2
    assert operands.dimensions(call(HELD), -2, 3) == (1,)
    assert operands.dimensions(call(HELD), [0, -1], 3) == (0, 2)
    for value in (None, (), "0", True, (0, True)):
        with pytest.raises(Coupled, match=r"^add: "):
            operands.dimensions(call(HELD), value, 3)


def test_an_argument_that_no_rule_knows_is_refused() -> None:
    operands.keywords(call(HELD, dim=0, out=None), {"dim"})
    with pytest.raises(Coupled, match="the argument out \\(of type Tensor\\)"):
        operands.keywords(call(HELD, out=HELD), {"dim"})
    with pytest.raises(Coupled, match=r"^add: "):
        operands.keywords(call(input=1), {"input"})


def test_a_shared_operand_depends_on_no_record_and_not_on_their_number() -> None:
    operands.public(call(HELD, HELD, labels=[Records(0), public(0)]), 1)
    operands.public(call(HELD, HELD, labels=[PUBLIC, Records(0)]), 0, 1)
    with pytest.raises(Coupled, match=r"^add: "):
        operands.public(call(HELD, HELD, labels=[PUBLIC, Records(0)]), 1)
    with pytest.raises(Coupled, match=r"^add: "):
        operands.public(call(HELD, HELD, labels=[PUBLIC, following(0)]), 1)


@pytest.mark.parametrize(
    ("tensor", "label", "dim"),
    [
        (torch.rand(N, 6), public(0), 0),
        (torch.rand(1, 6), PUBLIC, 0),
        (torch.rand(6).expand(N, 6), PUBLIC, 0),
        (torch.rand(6), PUBLIC, -1),
        (torch.rand(N, 6), Public(frozenset({0}), frozenset({0})), 0),
    ],
)
def test_public_values_that_are_alike_for_all_records_meet_them(
    tensor: Tensor, label: Public, dim: int
) -> None:
    operands.meet(call(HELD), tensor, label, dim, Records(0))


@pytest.mark.parametrize(
    ("tensor", "label", "dim"),
    [
        (torch.rand(N, 6), PUBLIC, 0),
        (torch.rand(N, 6), public(1), 0),
        (torch.rand(N, N), following(1), 0),
        (torch.rand(N), following(0), -1),
        (torch.rand(2 * N, 6), public(0), 0),
        (torch.rand(1, 6), following(0), 0),
    ],
)
def test_public_values_that_tell_records_apart_do_not(tensor: Tensor, label: Public, dim: int) -> None:
    with pytest.raises(Coupled):
        operands.meet(call(HELD), tensor, label, dim, Records(0))


def test_operands_are_aligned_from_their_last_dimension() -> None:
    def align(*labelled: tuple[Tensor, Label]) -> Records | None:
        tensors, labels = zip(*labelled, strict=True)
        return operands.align(call(*tensors, labels=[*labels]), tensors, labels, ndim=2)

    assert align((HELD, Records(0)), (torch.rand(6), PUBLIC)) == Records(0)
    assert align((HELD, Records(0)), (HELD, Records(0))) == Records(0)
    assert align((torch.zeros(N), Records(0)), (torch.rand(3, 1), PUBLIC)) == Records(1)
    assert align((torch.rand(6), PUBLIC), (HELD, PUBLIC)) is None
    with pytest.raises(Coupled, match=r"^add: "):
        align((torch.zeros(N, N), Records(0)), (torch.zeros(N), Records(0)))
    with pytest.raises(Coupled, match=r"^add: "):
        align((torch.zeros(N, 6), Records(0)), (torch.rand(N, 1), PUBLIC))


def test_a_function_of_public_operands_is_constant_where_all_of_them_are() -> None:
    def of(*labelled: tuple[tuple[int, ...], Public]) -> Public:
        return operands.broadcast([torch.rand(s) for s, _ in labelled], [label for _, label in labelled], 2)

    assert of(((3, 4), PUBLIC), ((4,), PUBLIC)) == PUBLIC
    assert of(((3, 4), SAME), ((), SAME)) == SAME
    # The first is constant along the first dimension, and the second is repeated along it.
    assert of(((3, 1), public(0)), ((1, 4), PUBLIC)) == public(0)
    assert of(((3, 4), public(0, 1)), ((4,), public(0))) == public(0, 1)
    assert of(((3, 4), public(1)), ((3, 4), public(0))) == public()


@pytest.mark.parametrize(
    ("label", "mixed", "expected"),
    [
        (Records(1), {0, 2}, Records(1)),
        (PUBLIC, {0, 1}, PUBLIC),
        (public(0, 2), {2}, public(0)),
        (SAME, {1}, Public(frozenset({0, 2}), same=True)),
    ],
)
def test_mixing_keeps_what_lies_along_the_other_dimensions(
    label: Label, mixed: set[int], expected: Label
) -> None:
    assert operands.apart(call(HELD), label, 3, mixed) == expected


@pytest.mark.parametrize("label", [Records(1), following(1)])
def test_nothing_mixes_along_the_dimension_of_the_records(label: Label) -> None:
    with pytest.raises(Coupled):
        operands.apart(call(HELD), label, 3, {1})


@pytest.mark.parametrize(
    ("label", "order", "expected"),
    [
        (Records(0, 2, 3), [1, 0], Records(1, 2, 3)),
        (Records(1), [None, 0, 1], Records(2)),
        (public(0), [1, 0], public(1)),
        (public(0), [None, 1, 0], public(0, 2)),
        (SAME, [1, None, 0], SAME),
        (PUBLIC, [1, 0], PUBLIC),
    ],
)
def test_labels_follow_their_dimensions(label: Label, order: list[int | None], expected: Label) -> None:
    assert operands.renumber(label, order) == expected
