"""The program of a forward pass: its calls, which must be the same for any number of records."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .known import Known
from .labels import Coupled
from .step import Multiple, Step

RECORDS = (2, 3)
"""Numbers of records in the two dry runs that define a program. They are fixed, because with real batches the drawn
buckets would determine the program."""


@dataclass(frozen=True)
class Program:
    """The steps of a pass; some sizes are multiples of the number of records, everything else is fixed.

    Args:
        steps: the steps, with :class:`Multiple` in place of sizes that follow the number of records.
        following: for each step, the dimensions of its outputs that follow the number of records.
    """

    steps: tuple[Step, ...]
    following: tuple[tuple[frozenset[int], ...], ...]

    @classmethod
    def of(cls, first: Sequence[Step], second: Sequence[Step]) -> Program:
        """Return the program of two dry runs, with two and with three records.

        Raises:
            Coupled: the dry runs differ in more than sizes.
        """
        for a, b in zip(first, second, strict=False):
            if a.func != b.func:  # accessors such as x.T are made anew each time
                raise Coupled(
                    f"{_name(b.func)} is called for {RECORDS[1]} records, but {_name(a.func)} for {RECORDS[0]}: the "
                    "computation depends on the number of records, or on chance"
                )
        if len(first) != len(second):
            raise Coupled(
                f"{len(first)} calls are made for {RECORDS[0]} records, but {len(second)} for {RECORDS[1]}: the "
                "computation depends on the number of records, or on chance"
            )
        steps, following = [], []
        for a, b in zip(first, second, strict=True):
            shapes = tuple(_merge_shapes(p, q, a) for p, q in zip(a.shapes, b.shapes, strict=False))
            if len(a.shapes) != len(b.shapes):
                raise Coupled(
                    f"the number of tensors that {_name(a.func)} returns depends on the number of records"
                )
            steps.append(Step(a.func, _merge(a.arguments, b.arguments, a, sizes=_sizes(a)), shapes))
            following.append(
                tuple(
                    frozenset(i for i, size in enumerate(shape) if isinstance(size, Multiple))
                    for shape in shapes
                )
            )
        return cls(tuple(steps), tuple(following))

    def step(self, at: int, records: int) -> Step | None:
        """Return a step of a pass over this number of records; None after the last."""
        if at >= len(self.steps):
            return None
        step = self.steps[at]
        arguments = _instance(step.arguments, records) if at in self._sized else step.arguments
        return Step(step.func, arguments, _instance(step.shapes, records))

    @cached_property
    def _sized(self) -> frozenset[int]:
        """The steps whose arguments follow the number of records."""
        return frozenset(
            at for at, step in enumerate(self.steps) if step.arguments != _instance(step.arguments, 1)
        )

    @cached_property
    def known(self) -> list[Known | None]:
        """The calls that need no rule, see :mod:`.known`, or None; empty until a pass was followed to its end."""
        return []

    def is_known(self, of_pass: Hashable) -> bool:
        """Return whether such a pass was followed to its end, and made the known calls.

        Args:
            of_pass: number of records, and labels and shapes of the inputs.
        """
        return of_pass in self._followed

    def learn(self, of_pass: Hashable, calls: list[Known | None]) -> None:
        """Take a pass that was followed to its end; its calls are the known ones if it is the first."""
        if not self.known:
            self.known.extend(calls)
        self._followed.add(of_pass)

    @cached_property
    def _followed(self) -> set[Hashable]:
        return set()


_ALL_SIZES = {
    f for name in ("zeros", "ones", "empty", "rand", "randn") if (f := getattr(torch, name, None)) is not None
}
_SIZES_AFTER_TENSOR = {
    getattr(Tensor, name)
    for name in (
        "view",
        "reshape",
        "expand",
        "repeat",
        "tile",
        "new_zeros",
        "new_ones",
        "new_empty",
        "unflatten",
        "__getitem__",
    )
} | {torch.reshape, torch.unflatten, torch.broadcast_to, Tensor.broadcast_to, torch.tile}
_FIRST_IS_SIZE = {torch.full}
_FIRST_AFTER_TENSOR = {Tensor.new_full}
_SIZE_NAMES = ("size", "shape")

SIZED = frozenset({*_ALL_SIZES, *_SIZES_AFTER_TENSOR, *_FIRST_IS_SIZE, *_FIRST_AFTER_TENSOR})
"""Functions with sizes among their arguments; only these arguments may follow the number of records."""


def _sizes(step: Step) -> Callable[[int | str], bool]:
    """Return whether an argument, by position or name, is a size, which may follow the number of records."""
    positions: tuple[int, int] = (0, 0)
    if step.func in _ALL_SIZES:
        positions = (0, 64)
    elif step.func in _SIZES_AFTER_TENSOR:
        positions = (1, 64)
    elif step.func in _FIRST_IS_SIZE:
        positions = (0, 1)
    elif step.func in _FIRST_AFTER_TENSOR:
        positions = (1, 2)
    named = positions != (0, 0)
    return lambda key: (
        positions[0] <= key < positions[1] if isinstance(key, int) else named and key in _SIZE_NAMES
    )


def _merge(a: Any, b: Any, step: Step, *, sizes: Callable[[int | str], bool]) -> Any:
    """Merge the arguments of two dry runs: (positional, ((name, value), ...), whether gradients are computed)."""
    if step.func is None:
        return _same(a, b, step, follows=False)
    (args, named, grad), (other, others, grad_too) = a, b
    if grad != grad_too or len(args) != len(other) or [k for k, _ in named] != [k for k, _ in others]:
        raise Coupled(f"the arguments of {_name(step.func)} depend on the number of records")
    return (
        tuple(_same(x, y, step, follows=sizes(i)) for i, (x, y) in enumerate(zip(args, other, strict=True))),
        tuple((k, _same(x, y, step, follows=sizes(k))) for (k, x), (_, y) in zip(named, others, strict=True)),
        grad,
    )


def _same(a: Any, b: Any, step: Step, *, follows: bool) -> Any:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(_same(x, y, step, follows=follows) for x, y in zip(a, b, strict=True))
    if a == b:
        return a
    if follows and type(a) is int and type(b) is int:
        return _multiple(a, b, step)
    raise Coupled(
        f"{_name(step.func)} gets {_shown(a)} for {RECORDS[0]} records, but {_shown(b)} for {RECORDS[1]}: the "
        "computation depends on the number of records, or on chance"
    )


def _merge_shapes(a: tuple[int, ...], b: tuple[int, ...], step: Step) -> tuple[Any, ...]:
    if len(a) != len(b):
        raise Coupled(
            f"the number of dimensions that {_name(step.func)} returns depends on the number of records"
        )
    return tuple(p if p == q else _multiple(p, q, step) for p, q in zip(a, b, strict=True))


def _multiple(a: int, b: int, step: Step) -> Multiple:
    times = a // RECORDS[0]
    if (a, b) != (times * RECORDS[0], times * RECORDS[1]):
        raise Coupled(
            f"a size in {_name(step.func)} is {a} for {RECORDS[0]} records and {b} for {RECORDS[1]}, which is not a "
            "multiple of their number"
        )
    return Multiple(times)


def _instance(value: Any, records: int) -> Any:
    if type(value) is Multiple:
        return value.times * records
    if type(value) is tuple:
        return tuple([_instance(v, records) for v in value])
    return value


def _name(func: Any) -> str:
    return "the end of the pass" if func is None else str(getattr(func, "__name__", func))


def _shown(value: Any) -> str:
    return str(value[1]) if isinstance(value, tuple) and len(value) == 2 else str(value)
