"""Calls that need no rule, because the same call was allowed in an earlier pass over as many records.

A rule decides by the function, the arguments, and the labels and shapes of the operands. A call with the same of each
is allowed again, and its output has the same label. To compare them takes a third of the time of following the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .labels import Label, Public, Records
from .public import PublicTensors
from .rules import After, Call
from .step import Multiple, Step


class Pass(Protocol):
    """A pass, as far as its calls are compared."""

    public: PublicTensors
    records: int
    token: object


class _Expected(Protocol):
    """An argument of a known call."""

    def fits(self, value: Any, following: Pass) -> bool:
        """Return whether an argument of a pass is this one."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor made in the pass, which has the label of the call that made it.

    Args:
        reference: that call.
        grad: whether the tensor requires a gradient, if it is public.
    """

    reference: Any
    grad: bool | None

    def fits(self, value: Any, following: Pass) -> bool:
        mark = getattr(value, "_dpmi", None)
        return (
            mark is not None
            and mark[0] is following.token
            and mark[2] == value._version
            and mark[4] == self.reference
            and (self.grad is None or value.requires_grad == self.grad)
        )


@dataclass(frozen=True, slots=True)
class _PublicTensor:
    """A tensor that outlives the pass. Nothing else checks its shape, so it is compared here."""

    tensor: Tensor = field(compare=False)
    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    grad: bool

    def fits(self, value: Any, following: Pass) -> bool:
        return (
            value is self.tensor
            and following.public.reference(value) == self.name
            and value.requires_grad == self.grad
            and value.shape == self.shape
            and value.stride() == self.stride
        )


@dataclass(frozen=True, slots=True)
class _Size:
    """A multiple of the number of records."""

    times: int

    def fits(self, value: Any, following: Pass) -> bool:
        return type(value) is int and value == self.times * following.records


@dataclass(frozen=True, slots=True)
class _Value:
    """Any other value; 1, 1.0 and True are equal, but do not compute the same."""

    kind: type
    value: Any

    def fits(self, value: Any, _: Pass) -> bool:
        return type(value) is self.kind and bool(value == self.value)


@dataclass(frozen=True, slots=True)
class _Several:
    """A list, a tuple or a slice."""

    kind: type
    parts: tuple[_Expected, ...]

    def fits(self, value: Any, following: Pass) -> bool:
        if type(value) is not self.kind:
            return False
        parts = _parts(value)
        return len(parts) == len(self.parts) and all(
            expected.fits(part, following) for expected, part in zip(self.parts, parts, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Known:
    """A call that was allowed.

    Args:
        step: the step of the program.
        args: its positional arguments.
        kwargs: its keyword arguments, in order.
        labels: the labels of its operands.
        label: the label of its output before its shape was known.
        outputs: the shape and label of every tensor that it returns.
        is_tensor: whether it returns a tensor, not several.
        is_plain: whether it is made as it stands, without a tap.
    """

    step: Step
    args: tuple[_Expected, ...]
    kwargs: tuple[tuple[str, _Expected], ...]
    labels: tuple[Label, ...]
    label: Label
    outputs: tuple[tuple[tuple[Any, ...], Label], ...]
    is_tensor: bool
    is_plain: bool

    @classmethod
    def of(
        cls,
        call: Call,
        step: Step,
        label: Label | After,
        out: Any,
        *,
        labels: Sequence[Label],
        is_plain: bool,
        following: Pass,
    ) -> Known | None:
        """Return a call that was allowed; None if it must be followed every time.

        Args:
            call: the call.
            step: the step of the program that it is.
            label: the label of its output, or what returns it for an output.
            out: what it returned.
            labels: the label of every tensor that it returned.
            is_plain: whether it was made without a tap.
            following: the pass.
        """
        made = [out] if isinstance(out, Tensor) else out
        if not isinstance(made, list | tuple) or not all(isinstance(t, Tensor) for t in made):
            return None
        if call.func is Tensor.__setitem__ or (not isinstance(label, Records | Public) and not is_plain):
            return None
        of = {id(t): own for t, own in zip(call.tensors, call.labels, strict=True)}
        args, kwargs, _ = step.arguments
        try:
            return cls(
                step,
                tuple(_expected(a, e, of, following) for a, e in zip(call.args, args, strict=True)),
                tuple(
                    (name, _expected(a, e, of, following))
                    for (name, a), (_, e) in zip(call.kwargs.items(), kwargs, strict=True)
                ),
                tuple(call.labels),
                label if isinstance(label, Records | Public) else labels[0],
                tuple(zip(step.shapes, labels, strict=True)),
                isinstance(out, Tensor),
                is_plain,
            )
        except _MustBeFollowed:
            return None

    def allows(self, labels: Sequence[Label], outputs: Sequence[Label], *, is_plain: bool) -> bool:
        """Return whether a call had operands and outputs of the same labels."""
        return (
            self.is_plain == is_plain
            and self.labels == tuple(labels)
            and [label for _, label in self.outputs] == list(outputs)
        )

    def fits(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], following: Pass
    ) -> bool:
        """Return whether a call has the same function and arguments, in the same order."""
        if self.step.func != func or len(args) != len(self.args) or len(kwargs) != len(self.kwargs):
            return False
        if torch.is_grad_enabled() != self.step.arguments[2]:
            return False
        for expected, value in zip(self.args, args, strict=True):
            if not expected.fits(value, following):
                return False
        if kwargs:
            for (name, expected), (own, value) in zip(self.kwargs, kwargs.items(), strict=True):
                if name != own or not expected.fits(value, following):
                    return False
        return True


class _MustBeFollowed(Exception):
    """An argument cannot be compared quickly."""


def _expected(value: Any, expected: Any, of: Mapping[int, Label], following: Pass) -> _Expected:
    if isinstance(value, Tensor):
        if value in following.public:
            name = following.public.name(value)
            return _PublicTensor(value, name, tuple(value.shape), value.stride(), value.requires_grad)
        _, reference = expected  # not that of the tensor, which the call may have modified
        return _Made(reference, value.requires_grad if type(of[id(value)]) is Public else None)
    if type(expected) is Multiple:
        return _Size(expected.times)
    if type(value) is slice or isinstance(value, list | tuple):
        inside = expected[1:] if type(value) is slice else expected
        return _Several(
            type(value),
            tuple(_expected(v, e, of, following) for v, e in zip(_parts(value), inside, strict=True)),
        )
    if isinstance(value, torch.Generator):
        raise _MustBeFollowed
    return _Value(type(value), value)


def _parts(value: Any) -> Sequence[Any]:
    return (value.start, value.stop, value.step) if type(value) is slice else value
