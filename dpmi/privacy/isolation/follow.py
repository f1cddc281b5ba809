"""Follows the records of a physical batch through every function call of a forward pass."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .arguments import operands, plain, writes_in_place
from .functions import (
    FACTORIES_CONSTANT,
    FACTORIES_EMPTY,
    FACTORIES_NEW,
    FACTORIES_SAME,
    FILLS,
    METADATA,
    RULES,
)
from .labels import CONSTANT, PUBLIC, SAME, Coupled, Label, Public, Records
from .program import Program, Step
from .public import PublicTensors
from .rules import Call

_EMPTY = Public(everywhere=True, empty=True)
_OVERRIDE_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


class Following(TorchFunctionMode):
    """Within ``with following:``, every call must be known to keep the records apart, and be the program's next one.

    A tensor has its label as an attribute, with the token of this pass and the version that the label was given to:
    what was made elsewhere, in an earlier pass or by a function that the mode does not see, and what was modified
    unseen, has none, and may not meet the records. A call is refused before it is made, so that nothing is written.

    Args:
        public: the tensors that depend on no record.
        records: number N of records of the physical batch.
    """

    def __init__(self, public: PublicTensors, records: int) -> None:
        super().__init__()
        self.public = public
        self.records = records
        self.problem: str | None = None
        """Why this pass cannot be trusted; it stays, even if the user's code goes on."""
        self.trace: list[Step] = []
        """The calls of this pass so far."""
        self._token = object()
        self._program: Program | None = None
        self._expected: list[Step] | None = None
        self._apart = False

    def take_in(self, t: Tensor, label: Label) -> None:
        """Label a tensor of the physical batch."""
        self.put_label(t, label, None)

    def put_label(self, t: Tensor, label: Label, reference: Any) -> None:
        """Set a tensor's label, and which call made it."""
        t._dpmi = (self._token, type(label) is Public, t._version, label, reference)  # type: ignore[attr-defined]

    def begin_pass(self, inputs: Iterable[Tensor], program: Program | None) -> None:
        """Begin a forward pass on labelled tensors of the batch.

        Args:
            inputs: those that the pass gets, in the order of its arguments.
            program: what the dry runs showed of this pass; None in a dry run, which records :attr:`trace`.
        """
        for i, t in enumerate(inputs):
            self.put_label(t, self.label(t), ("input", i))
        self.trace = []
        self._program = program
        self._expected = None if program is None else program.expected(self.records)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Follow calls that belong to no forward pass: those of the user's loop."""
        before, self._apart = self._apart, True
        try:
            with self:
                yield
        finally:
            self._apart = before

    def label(self, t: Tensor) -> Label:
        """The label of a tensor.

        Raises:
            Coupled: it has none.
        """
        mark = getattr(t, "_dpmi", None)
        if mark is not None and mark[0] is self._token:
            if mark[2] != t._version:
                raise Coupled(
                    f"a tensor of shape {tuple(t.shape)} was modified in place by a call that is not seen"
                )
            label: Label = mark[3]
            return label
        if self.public.reference(t) is not None:
            return PUBLIC
        raise Coupled(
            f"a tensor of shape {tuple(t.shape)} was made elsewhere: it is neither a parameter, nor a buffer, nor made "
            "in this pass by a function that is followed"
        )

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """Close a pass whose outputs these are.

        Raises:
            Coupled: it made fewer calls than the program, or returns something else; or something was wrong before.
        """
        if self.problem is not None:
            raise Coupled(self.problem)
        for t in outputs:
            self.label(t)
        self.add_step(Step(None, tuple(self._reference(t) for t in outputs), ()))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        classes: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make a call, if it keeps the records apart.

        Raises:
            Coupled: it does not, or that is not known; the call was not made.
        """
        kwargs = kwargs or {}
        if func in METADATA:
            return func(*args, **kwargs)
        try:
            return self._followed(func, args, kwargs)
        except Coupled as error:
            if not self._apart:  # what the loop computes of it is not taken by the module or the criterion
                self.problem = self.problem or str(error)
            raise

    def operand_labels(self, func: Callable[..., Any], tensors: list[Tensor]) -> list[Label]:
        """The labels of the operands of a call."""
        return [self.label(t) for t in tensors]

    def call(self, call: Call, label: Label | Callable[[Any], Label]) -> Any:
        """Make a call that keeps the records apart; ``label`` is what its output will have."""
        return call.func(*call.args, **call.kwargs)

    def _followed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = operands(args, kwargs)
        labels = self.operand_labels(func, tensors)
        holds = False
        for found in labels:
            if type(found) is Records:
                holds = True
        known = RULES.get(func)
        if known is None:
            inner = _twin(func)
            if inner is not None:
                with self:
                    return inner(*args, **kwargs)
            if holds and not (func in FACTORIES_NEW and len(tensors) == 1):
                raise Coupled(f"{_name(func)} is not known to keep records apart")
        call = Call(func, args, kwargs, tensors, labels, self.records)
        label = self._label_of(call, known)
        arguments = self.arguments(args, kwargs)
        self.compare(func, arguments)
        out = self.call(call, label)
        if func is Tensor.__setitem__:  # which returns nothing
            out = args[0]
        if type(label) is not Records and type(label) is not Public:
            label = label(out)  # type: ignore[operator]
        self._take_out(Step(func, arguments, _shapes(out)), call, label, out)
        return out

    def _label_of(self, call: Call, known: Any) -> Label | Callable[[Any], Label]:
        func, labels = call.func, call.labels
        if call.kwargs.get("out") is not None:
            raise Coupled(f"{call.name} writes into a tensor that is given to it (out=)")
        if call.tensors and writes_in_place(func, call.name, call.kwargs) and call.tensors[0] in self.public:
            raise Coupled(
                f"{call.name} writes to {self.public.reference(call.tensors[0])!r}, which outlives the pass"
            )
        for found in labels:
            if type(found) is Public and found.empty:
                if func not in FILLS or len(labels) > 1:
                    raise Coupled(f"{call.name} reads memory that was not filled")
                return CONSTANT
        if known is not None and labels:
            try:
                return known(call)  # type: ignore[no-any-return]
            except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise Coupled(f"{call.name} has arguments that are not understood ({error})") from error
        if any(x.following for x in labels if type(x) is Public):
            raise Coupled(f"{call.name} is called on a tensor whose size follows the number of records")
        if func in FACTORIES_EMPTY:
            return _EMPTY
        if func in FACTORIES_SAME:
            return SAME
        return CONSTANT if func in FACTORIES_CONSTANT else PUBLIC

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The arguments of a call, as they are compared between passes."""
        reference = self._reference
        return (
            tuple([plain(a, reference) for a in args]),
            tuple([(k, plain(v, reference)) for k, v in kwargs.items()]) if kwargs else (),
            torch.is_grad_enabled(),
        )

    def compare(self, func: Callable[..., Any], arguments: Any) -> None:
        """Refuse, before it is made, a call that is not the program's next one."""
        if self._expected is None or self._apart:
            return
        at = len(self.trace)
        step = self._expected[at] if at < len(self._expected) else None
        if step is None or step.func is not func or step.arguments != arguments:
            self._refuse(
                f"call {at + 1} is {_name(func)}{_shown(arguments)}, and in the dry run "
                + ("there was none" if step is None else f"{_name(step.func)}{_shown(step.arguments)}")
            )

    def _take_out(self, step: Step, call: Call, label: Label, out: Any) -> None:
        if self._apart:
            for t in operands((out,), {}):
                self._mark(t, label, None, call)
            return
        at = len(self.trace)
        self.add_step(step)
        if isinstance(out, Tensor):
            self._mark(out, self._with_sizes(label, at, 0), at, call)
            return
        if isinstance(out, tuple | list):
            for i, t in enumerate(out):
                if isinstance(t, Tensor):
                    self._mark(t, self._with_sizes(label, at, i), (at, i), call)
            return
        if call.tensors and not all(t in self.public for t in call.tensors):
            raise Coupled(f"{call.name} makes a Python value of what was computed in this pass")

    def add_step(self, step: Step) -> None:
        """Add a call that was made to the trace, if it returned what the program says."""
        if self._expected is not None:
            at = len(self.trace)
            if at >= len(self._expected) or self._expected[at] != step:
                self._refuse(f"{_name(step.func)} returned other shapes or tensors than in the dry run")
        self.trace.append(step)

    def _with_sizes(self, label: Label, at: int, i: int) -> Label:
        """Add which dimensions follow the number of records, as the program has them."""
        if self._program is None:
            return label
        following = self._program.following[at][i]
        if isinstance(label, Records):
            if following - {label.dim}:
                raise Coupled(
                    f"{_name(self.trace[at].func)} returns a tensor with the number of records in a second dimension"
                )
            return label
        return label if not following else dataclasses.replace(label, following=following)

    def _mark(self, t: Tensor, label: Label, at: Any, call: Call) -> None:
        if t in self.public:
            return
        if any(t is other for other in call.tensors):
            mark = t._dpmi  # type: ignore[attr-defined]
            if mark[2] == t._version:  # the call returned its operand as it was
                return
        self.put_label(t, label, at)

    def _reference(self, t: Tensor) -> Any:
        """Which tensor of the pass this is: what made it, or its name if it is public."""
        mark = getattr(t, "_dpmi", None)
        if mark is not None and mark[0] is self._token:
            return ("made by", mark[4])
        return self.public.reference(t)

    def _refuse(self, reason: str) -> None:
        raise Coupled(f"this pass is not that of the dry run: {reason}")


def _shapes(out: Any) -> tuple[tuple[int, ...], ...]:
    if isinstance(out, Tensor):
        return (tuple(out.shape),)
    if isinstance(out, tuple | list):
        return tuple(tuple(t.shape) if isinstance(t, Tensor) else () for t in out)
    return ()


def _name(func: Any) -> str:
    return "the end of the pass" if func is None else str(getattr(func, "__name__", func))


def _shown(arguments: Any) -> str:
    """The plain arguments of a call, for a message."""
    if not (isinstance(arguments, tuple) and len(arguments) == 3):
        return ""
    shown = [str(a) for a in arguments[0] if not (isinstance(a, tuple) and a[:1] == ("made by",))]
    return f"({', '.join([*shown, *(f'{k}={v}' for k, v in arguments[1])])})"


@lru_cache(None)
def _twin(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """A Python function of torch.nn.functional whose own check for overrides is false: its inner calls are followed.

    Nothing of torch is patched: it is the same code with other globals.
    """
    if getattr(func, "__module__", "") != "torch.nn.functional":
        return None
    code = inspect.unwrap(func)
    if not isinstance(code, types.FunctionType) or not set(_OVERRIDE_CHECKS) & set(code.__code__.co_names):
        return None
    unchecked = {name: lambda *_: False for name in _OVERRIDE_CHECKS}
    twin = types.FunctionType(
        code.__code__, {**code.__globals__, **unchecked}, code.__name__, code.__defaults__, code.__closure__
    )
    twin.__kwdefaults__ = code.__kwdefaults__
    return twin
