"""Tracks the records of a physical batch through every function call of a forward pass."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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
from .known import Known
from .labels import CONSTANT, PUBLIC, SAME, Coupled, Label, Public, Records
from .program import Program
from .public import PublicTensors
from .rules import After, Call
from .step import Step

_EMPTY = Public(everywhere=True, empty=True)
_OVERRIDE_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


class Following(TorchFunctionMode):
    """Within ``with following:``, every call must be known not to mix records, and must be the next one of the program.

    A tensor stores its label as an attribute, with the token of this pass and the tensor's version. A tensor has no
    valid label if it was made in an earlier pass or by a function that the mode does not observe, or if it was modified
    unobserved; it must not be combined with records. A call is rejected before it is made, so nothing is written.

    Args:
        public: the tensors that depend on no record.
        records: number N of records of the physical batch.
    """

    def __init__(self, public: PublicTensors, records: int) -> None:
        super().__init__()
        self.public = public
        self.records = records
        self.problem: str | None = None
        """Why this pass is rejected; it is kept even if the user's code catches the error."""
        self.trace: list[Step] = []
        """The calls of this pass so far."""
        self.token = object()
        """Marks the tensors of this pass."""
        self.is_paused = False
        """Whether calls are made as they stand, unobserved."""
        self.is_plain = True
        """Whether the last call was made as it stands; :meth:`call` says if not."""
        self.is_known = False
        """Whether such a pass was followed before, so that its calls need no rules."""
        self._program: Program | None = None
        self._expected: Step | None = None
        self._known: Sequence[Known | None] = ()
        self._as_known = False
        self._learned: list[Known | None] = []
        self._of_pass: Hashable = None
        self._apart = False

    def take_in(self, t: Tensor, label: Label) -> None:
        """Label a tensor of the physical batch."""
        self.put_label(t, label, None)

    def put_label(self, t: Tensor, label: Label, reference: Any) -> None:
        """Set a tensor's label, and a reference to the call that made it."""
        t._dpmi = (self.token, type(label) is Public, t._version, label, reference)  # type: ignore[attr-defined]

    def begin_pass(self, inputs: Iterable[Tensor], program: Program | None) -> None:
        """Start a forward pass on labelled tensors of the batch.

        Args:
            inputs: the inputs of the pass, in the order of its arguments.
            program: the program of this pass from the dry runs; None in a dry run, which records :attr:`trace`.
        """
        of_inputs = []
        for i, t in enumerate(inputs):
            label = self.label(t)
            self.put_label(t, label, ("input", i))
            of_inputs.append((label, t.shape, t.stride(), t.dtype))
        self.trace = []
        self._program = program
        self._learned = []
        self._as_known = True
        self._of_pass = (self.records, *of_inputs)
        self._known = () if program is None else program.known
        self.is_known = program is not None and program.is_known(self._of_pass)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Track calls of the user's loop, which belong to no forward pass."""
        before, self._apart = self._apart, True
        try:
            with self:
                yield
        finally:
            self._apart = before

    def label(self, t: Tensor) -> Label:
        """Return the label of a tensor.

        Raises:
            Coupled: the tensor has no valid label.
        """
        mark = getattr(t, "_dpmi", None)
        if mark is not None and mark[0] is self.token:
            if mark[2] != t._version:
                raise Coupled(
                    f"a tensor of shape {tuple(t.shape)} was modified in place by a call that cannot be observed"
                )
            label: Label = mark[3]
            return label
        if self.public.reference(t) is not None:
            return PUBLIC
        raise Coupled(
            f"the origin of a tensor of shape {tuple(t.shape)} is unknown: it is neither a parameter nor a buffer, and "
            "no tracked function made it in this pass"
        )

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """End a pass with these outputs.

        Raises:
            Coupled: the pass made fewer calls than the program, returns something else, or was rejected before.
        """
        if self.problem is not None:
            raise Coupled(self.problem)
        outputs = list(outputs)
        for t in outputs:
            self.label(t)
        self._expected = None if self._program is None else self._program.step(len(self.trace), self.records)
        self.add_step(Step(None, tuple(self._reference(t) for t in outputs), ()))
        self.check_outputs(outputs)
        if self._program is not None and not self.is_known and self._as_known:
            self._program.learn(self._of_pass, self._learned)

    @property
    def has_program(self) -> bool:
        """Whether this pass must follow a program, which it does unless it is a dry run."""
        return self._program is not None

    def has_a_row_per_record(self, t: Tensor, label: Label, dim: int) -> bool:
        """Return whether a public tensor without a gradient has one equal row per record in a dimension."""
        return (
            type(label) is Public
            and label.is_constant(dim)
            and t.dim() > dim
            and t.shape[dim] == self.records
            and (self._program is None or dim in label.following)
            and not t.requires_grad
        )

    def check_outputs(self, outputs: Sequence[Tensor]) -> None:
        """Raise an error for outputs that a pass must not return."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        classes: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make a call if it is known not to mix records.

        Raises:
            Coupled: the call mixes records, or may mix them; it was not made.
        """
        kwargs = kwargs or {}
        # The message of an assertion may name the number of records; it computes nothing, as Python's own.
        if self.is_paused or func in METADATA or (func is torch._assert and type(args[0]) is bool):
            return func(*args, **kwargs)
        try:
            at = len(self.trace)
            if self.is_known and at < len(self._known) and not self._apart:
                known = self._known[at]
                if known is not None and known.fits(func, args, kwargs, self):
                    return self._repeated(known, args, kwargs)
            return self._followed(func, args, kwargs)
        except Coupled as error:
            if not self._apart:  # module and criterion do not accept such results of the loop anyway
                self.problem = self.problem or str(error)
            raise

    def operand_labels(self, func: Callable[..., Any], tensors: list[Tensor]) -> list[Label]:
        """Return the labels of the operands of a call."""
        return [self.label(t) for t in tensors]

    def call(self, call: Call, label: Label | Callable[[Any], Label]) -> Any:
        """Make a call that does not mix records; ``label`` is the label of its output."""
        return call.func(*call.args, **call.kwargs)

    def _repeated(self, known: Known, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call that was allowed in an earlier pass."""
        func = known.step.func
        assert func is not None
        if known.is_plain:
            out = func(*args, **kwargs)
        else:
            tensors = operands(args, kwargs)
            out = self.call(Call(func, args, kwargs, tensors, list(known.labels), self.records), known.label)
        self.trace.append(known.step)
        if known.is_tensor and isinstance(out, Tensor):
            self._mark_repeated(known, 0, out, (args, kwargs))
            return out
        if known.is_tensor or len(out) != len(known.outputs):
            self._refuse(f"{_name(func)} returned other tensors than in the dry runs")
        for i, t in enumerate(out):
            self._mark_repeated(known, i, t, (args, kwargs))
        return out

    def _mark_repeated(self, known: Known, i: int, t: Tensor, arguments: tuple[Any, Any]) -> None:
        shape, label = known.outputs[i]
        sizes = t.shape
        fits = len(sizes) == len(shape)
        for size, expected in zip(sizes, shape, strict=False):
            if size != expected and (type(expected) is int or size != expected.times * self.records):
                fits = False
        if not fits:
            self._refuse(f"{_name(known.step.func)} returned other shapes than in the dry runs")
        at = len(self.trace) - 1
        reference = at if known.is_tensor else (at, i)
        if hasattr(t, "_dpmi"):  # an operand, changed or not
            self._mark_operand(t, label, reference, operands(*arguments))
        elif t not in self.public:
            self.put_label(t, label, reference)

    def _followed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = operands(args, kwargs)
        labels = self.operand_labels(func, tensors)
        holds = False
        for found in labels:
            if type(found) is Records:
                holds = True
        rule = RULES.get(func)
        if rule is None:
            inner = _twin(func)
            if inner is not None:
                with self:
                    return inner(*args, **kwargs)
            if holds and not (func in FACTORIES_NEW and len(tensors) == 1):
                raise Coupled(f"{_name(func)} is not known to process records independently")
        call = Call(func, args, kwargs, tensors, labels, self.records)
        label = self._label_of(call, rule)
        arguments = self.arguments(args, kwargs)
        self.compare(func, arguments)
        at = len(self.trace)
        learns = self._program is not None and not self._apart and not self.is_known
        known = self._known[at] if learns and self._known else None
        fits = known is None or known.fits(func, args, kwargs, self)
        self.is_plain = True
        out = self.call(call, label)
        is_plain = self.is_plain
        if func is Tensor.__setitem__:  # __setitem__ returns None
            out = args[0]
        own = label if isinstance(label, Records | Public) else label(out)
        self._take_out(Step(func, arguments, _shapes(out)), call, own, out)
        if learns:
            self._learn(call, label, out, known, own=own, fits=fits, is_plain=is_plain)
        return out

    def _learn(
        self,
        call: Call,
        label: Label | After,
        out: Any,
        known: Known | None,
        *,
        own: Label,
        fits: bool,
        is_plain: bool,
    ) -> None:
        """Take a call for later passes, or compare it with the one that was taken in an earlier pass."""
        assert self._program is not None
        at = len(self.trace) - 1
        made = out if isinstance(out, list | tuple) else [out]
        labels = [self._with_sizes(own, at, i) for i in range(len(made))]
        if not self._known:
            self._learned[at] = Known.of(
                call, self._program.steps[at], label, out, labels=labels, is_plain=is_plain, following=self
            )
        elif known is not None:
            self._as_known = self._as_known and fits and known.allows(call.labels, labels, is_plain=is_plain)

    def _label_of(self, call: Call, rule: Any) -> Label | Callable[[Any], Label]:
        func, labels = call.func, call.labels
        if call.kwargs.get("out") is not None:
            raise Coupled(f"{call.name} writes into a given tensor (out=); use its return value instead")
        if call.tensors and writes_in_place(func, call.name, call.kwargs) and call.tensors[0] in self.public:
            raise Coupled(
                f"{call.name} writes to {self.public.reference(call.tensors[0])!r}, which outlives the pass"
            )
        for found in labels:
            if type(found) is Public and found.empty:
                if func not in FILLS or len(labels) > 1:
                    raise Coupled(f"{call.name} reads uninitialised memory")
                return CONSTANT
        if rule is not None and labels:
            try:
                return rule(call)  # type: ignore[no-any-return]
            except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise Coupled(f"the arguments of {call.name} are not supported ({error})") from error
        if any(x.following for x in labels if type(x) is Public):
            raise Coupled(f"{call.name} is called on a tensor whose size follows the number of records")
        if func in FACTORIES_EMPTY:
            return _EMPTY
        if func in FACTORIES_SAME:
            return SAME
        return CONSTANT if func in FACTORIES_CONSTANT else PUBLIC

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments of a call in the form that is compared between passes."""
        reference = self._reference
        return (
            tuple([plain(a, reference) for a in args]),
            tuple([(k, plain(v, reference)) for k, v in kwargs.items()]) if kwargs else (),
            torch.is_grad_enabled(),
        )

    def compare(self, func: Callable[..., Any], arguments: Any) -> None:
        """Reject a call, before it is made, if it is not the next one of the program."""
        if self._program is None or self._apart:
            return
        at = len(self.trace)
        step = self._expected = self._program.step(at, self.records)
        if step is None or step.func != func or step.arguments != arguments:
            self._refuse(
                f"call {at + 1} is {_name(func)}{_shown(arguments)}, but in the dry runs "
                + (
                    "there was no such call"
                    if step is None
                    else f"it was {_name(step.func)}{_shown(step.arguments)}"
                )
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
            raise Coupled(f"{call.name} turns a tensor computed in this pass into a Python value")

    def add_step(self, step: Step) -> None:
        """Add the call that was compared last to the trace, after checking that its result matches the program."""
        if self._program is not None and self._expected != step:
            self._refuse(f"{_name(step.func)} returned other shapes or tensors than in the dry runs")
        self.trace.append(step)
        self._learned.append(None)

    def _with_sizes(self, label: Label, at: int, i: int) -> Label:
        """Add to a label which dimensions follow the number of records, according to the program."""
        if self._program is None:
            return label
        following = self._program.following[at][i]
        if isinstance(label, Records):
            if following - {label.dim}:
                raise Coupled(
                    f"{_name(self.trace[at].func)} returns a tensor in which a second dimension follows the number of "
                    "records"
                )
            return label
        return label if not following else dataclasses.replace(label, following=following)

    def _mark(self, t: Tensor, label: Label, at: Any, call: Call) -> None:
        if t not in self.public:
            self._mark_operand(t, label, at, call.tensors)

    def _mark_operand(self, t: Tensor, label: Label, at: Any, tensors: Iterable[Tensor]) -> None:
        if any(t is other for other in tensors):
            mark = t._dpmi  # type: ignore[attr-defined]
            if mark[2] == t._version:  # the call returned its operand unchanged
                return
        self.put_label(t, label, at)

    def _reference(self, t: Tensor) -> Any:
        """Return the identity of a tensor within the pass: the call that made it, or its name if it is public."""
        mark = getattr(t, "_dpmi", None)
        if mark is not None and mark[0] is self.token:
            return ("made by", mark[4])
        return self.public.reference(t)

    def _refuse(self, reason: str) -> None:
        raise Coupled(f"this pass differs from the dry runs: {reason}")


def _shapes(out: Any) -> tuple[tuple[int, ...], ...]:
    if isinstance(out, Tensor):
        return (tuple(out.shape),)
    if isinstance(out, tuple | list):
        return tuple(tuple(t.shape) if isinstance(t, Tensor) else () for t in out)
    return ()


def _name(func: Any) -> str:
    return "the end of the pass" if func is None else str(getattr(func, "__name__", func))


def _shown(arguments: Any) -> str:
    """Return the arguments of a call for a message, without those made in the pass."""
    if not (isinstance(arguments, tuple) and len(arguments) == 3):
        return ""
    shown = [str(a) for a in arguments[0] if not (isinstance(a, tuple) and a[:1] == ("made by",))]
    return f"({', '.join([*shown, *(f'{k}={v}' for k, v in arguments[1])])})"


@lru_cache(None)
def _twin(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return a copy of a torch.nn.functional function without its check for overrides, so that inner calls are tracked.

    torch is not patched: the copy has the same code with other globals. None if there is no such check.
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
