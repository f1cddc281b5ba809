"""Properties of a rule: what it accepts keeps records apart, whatever they hold and however many they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import pytest
import torch
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from dpmi.privacy.isolation.functions import RULES
from dpmi.privacy.isolation.labels import PUBLIC, Coupled, Label, Public, Records
from dpmi.privacy.isolation.rules import Call

FAILURES = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)


@dataclass
class Operand:
    """A tensor to be made: ``shape`` is that of one record, and of as many of each dimension that follows them.

    Args:
        shape: sizes; those of the records' dimension, and of following ones, are multiplied by the number of records.
        label: its label.
        kind: which values it holds.
        high: one above the greatest integer.
    """

    shape: tuple[int, ...]
    label: Label = PUBLIC
    kind: str = "unit"
    high: int = 3

    def size(self, records: int) -> list[int]:
        shape = list(self.shape)
        if isinstance(self.label, Records):
            shape[self.label.dim] = self.label.before * records * self.label.within
        else:
            for dim in self.label.following:
                shape[dim] *= records
        return shape

    def make(self, records: int, generator: torch.Generator) -> Tensor:
        size = self.size(records)
        drawn = size
        if isinstance(self.label, Public):
            drawn = [1 if self.label.is_constant(i) else n for i, n in enumerate(size)]
        if self.kind == "index":
            values = torch.randint(0, self.high, drawn, generator=generator)
        elif self.kind == "bool":
            values = torch.randint(0, 2, drawn, generator=generator).bool()
        else:
            values = torch.rand(drawn, generator=generator, dtype=torch.float64) * 0.9 + 0.05
        return values.expand(size).clone()

    def without(self, tensor: Tensor, records: int, record: int) -> Tensor:
        """The tensor of a batch without this record."""
        if isinstance(self.label, Records):
            return tensor.index_select(
                self.label.dim, (owners(self.label, records) != record).nonzero()[:, 0]
            ).clone()
        for dim in self.label.following:
            tensor = tensor.narrow(dim, 0, self.shape[dim] * (records - 1))
        return tensor.clone()


@dataclass
class Trial:
    """One call: its operands, and how its arguments are made of them and of the number of records."""

    operands: list[Operand]
    arguments: Callable[[list[Tensor], int], tuple[Any, ...]] = lambda tensors, records: tuple(tensors)
    keywords: dict[str, Any] = field(default_factory=dict)
    drawn: bool = False


def owners(label: Records, records: int) -> Tensor:
    """Which record each index of the records' dimension belongs to."""
    return torch.arange(label.before * records * label.within) // label.within % records


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of arguments or outputs, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in tensors_of(each)]
    return []


def ask(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], labels: list[Label], records: int) -> Any:
    """What the rule says of a call, before it is made."""
    tensors = tensors_of(args) + tensors_of(list(kwargs.values()))
    return RULES[func](Call(func, args, kwargs, tensors, labels, records))


def called(func: Any, trial: Trial, tensors: list[Tensor], records: int, *, made: bool = True) -> Any:
    """The label and the outputs of a call on copies of these tensors."""
    copies = [tensor.clone() for tensor in tensors]
    args = trial.arguments(copies, records)
    label = (
        ask(func, args, trial.keywords, [operand.label for operand in trial.operands], records)
        if made
        else None
    )
    torch.default_generator.manual_seed(0)
    out = func(*args, **trial.keywords)
    if made and not isinstance(label, (Records, Public)):
        label = label(out)
    return label, tensors_of(args[0] if out is None else out)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-9, atol=1e-9, equal_nan=True)


def holds(func: Any, trial: Trial, records: int, record: int) -> bool:
    """Check a call that the rule accepts; False if it, or torch, refuses the call."""
    generator = torch.Generator().manual_seed(0)
    tensors = [operand.make(records, generator) for operand in trial.operands]
    try:
        label, outputs = called(func, trial, tensors, records)
    except Coupled:
        return False
    except FAILURES:
        with pytest.raises(FAILURES):  # a rule may fail only where torch does
            called(func, trial, tensors, records, made=False)
        return False
    _one_record_changed(func, trial, tensors, records, record, (label, outputs), generator)
    if records > 1 and not trial.drawn:
        _one_record_less(func, trial, tensors, records, record, (label, outputs))
    return True


def _one_record_changed(
    func: Any,
    trial: Trial,
    tensors: list[Tensor],
    records: int,
    record: int,
    was: tuple[Label, list[Tensor]],
    generator: Any,
) -> None:
    """No entry of the outputs moves that the label gives to another record."""
    label, outputs = was
    fresh = [operand.make(records, generator) for operand in trial.operands]
    for operand, tensor, other in zip(trial.operands, tensors, fresh, strict=True):
        if isinstance(operand.label, Records):
            at = (owners(operand.label, records) == record).nonzero()[:, 0]
            other.copy_(tensor.index_copy(operand.label.dim, at, other.index_select(operand.label.dim, at)))
        else:
            other.copy_(tensor)
    _, changed = called(func, trial, fresh, records)
    for out, other in zip(outputs, changed, strict=True):
        if isinstance(label, Records):
            assert out.shape[label.dim] == label.before * records * label.within
            kept = (owners(label, records) != record).nonzero()[:, 0]
            assert close(out.index_select(label.dim, kept), other.index_select(label.dim, kept))
        else:
            assert close(out, other)


def _one_record_less(
    func: Any, trial: Trial, tensors: list[Tensor], records: int, record: int, was: tuple[Label, list[Tensor]]
) -> None:
    """The outputs of the other records are what they were."""
    label, outputs = was
    fewer = [op.without(t, records, record) for op, t in zip(trial.operands, tensors, strict=True)]
    try:
        of_fewer, without = called(func, trial, fewer, records - 1)
    except Coupled:
        assert records == 2, "accepted with one record more"
        return  # where the records are is not told by the shape of a single one
    except FAILURES:
        return  # sizes that the arguments name fit one number of records only
    assert records == 2 or of_fewer == label
    for out, other in zip(outputs, without, strict=True):
        if isinstance(label, Records):
            kept = (owners(label, records) != record).nonzero()[:, 0]
            assert close(out.index_select(label.dim, kept), other)
        elif out.shape == other.shape:
            assert close(out, other)


Family = Callable[[st.DataObject, Any], Trial]


def check_family(func: Any, family: Family, examples: int = 24) -> None:
    """Search for a call that the rule accepts although it couples records; and find one at least that it accepts."""
    accepted = 0

    @seed(crc32(name_of(func).encode()))  # other examples for each function of a rule, the same in every run
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate])
    @given(st.data(), st.integers(1, 4))
    def search(data: st.DataObject, records: int) -> None:
        nonlocal accepted
        record = data.draw(st.integers(0, records - 1))
        accepted += holds(func, family(data, func), records, record)

    search()
    assert accepted, "no call was accepted: the family tests nothing"


def name_of(func: Any) -> str:
    return f"{getattr(func, '__qualname__', func)}"


def draw_label(data: st.DataObject, ndim: int, *, front: bool = False) -> Records:
    """Where the records of a tensor of so many dimensions are."""
    dim = 0 if front or data.draw(st.integers(0, 2)) == 0 else data.draw(st.integers(0, ndim - 1))
    before, within = data.draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2), (2, 3)]))
    return Records(dim, before, within)


def draw_held(data: st.DataObject, least: int = 1, most: int = 4, **kwargs: Any) -> Operand:
    """An operand that holds records."""
    ndim = data.draw(st.integers(least, most))
    shape = tuple(data.draw(st.integers(1, 3)) for _ in range(ndim))
    return Operand(shape, draw_label(data, ndim), **kwargs)


def draw_partner(data: st.DataObject, of: Operand, **kwargs: Any) -> Operand:
    """An operand that can be broadcast with another one: records as well, or public values of one of several shapes."""
    assert isinstance(of.label, Records)
    label, ndim = of.label, len(of.shape)
    shape = [data.draw(st.sampled_from([n, n, 1])) for n in of.shape]
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, label.dim))
        other = Records(label.dim - cut, label.before, label.within)
        form = data.draw(st.sampled_from(["alike", "alike", "alike", "turned", "crossed"]))
        single = [dim for dim in range(cut, ndim) if of.shape[dim] == 1 and dim != label.dim]
        if form == "turned":
            # Of the same size, and of other records.
            other = Records(label.dim - cut, label.within, label.before)
        elif form == "crossed" and single:
            # Every record with every other.
            shape[label.dim] = 1
            other = Records(data.draw(st.sampled_from(single)) - cut, label.before, label.within)
        return Operand(tuple(shape[cut:]), other, **kwargs)
    cut = data.draw(st.integers(0, ndim))
    dim = label.dim - cut
    shape = shape[cut:]
    if dim < 0:
        return Operand(tuple(shape), PUBLIC, **kwargs)
    form = data.draw(st.sampled_from(["one", "constant", "follows", "other"]))
    if form == "one":
        shape[dim] = 1
        return Operand(tuple(shape), PUBLIC, **kwargs)
    shape[dim] = label.before * label.within
    if form == "other":
        return Operand(tuple(shape), Public(following=frozenset({0})), **kwargs)
    follows = frozenset({dim})
    return Operand(tuple(shape), Public(follows if form == "constant" else frozenset(), follows), **kwargs)
