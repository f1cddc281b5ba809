"""Two dry runs of the user's loop, before anything is released: they verify that the loss does not mix buckets."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .isolation.labels import Coupled
from .isolation.program import RECORDS, Program
from .isolation.shared import Constants
from .isolation.step import Step

_LOG = logging.getLogger("dpmi")

TOLERANCE = 1e-3
"""Largest relative difference of two gradients that counts as rounding in float32."""

SHOWN = (1.0, 2.0)
"""The loss values that the loop sees in the dry runs. They are fixed, so that its reaction depends on no record."""


@dataclass
class CriterionCall:
    """One call of the criterion for a physical batch.

    Args:
        paths: how its arguments were computed.
        factor: the factor of the loop on the loss before backward(); every bucket's loss gets it.
    """

    paths: Any
    factor: float = 0.0


@dataclass
class Agreement:
    """The computation that every physical batch of several buckets must follow.

    Args:
        programs: the programs of the forward passes of one batch, in order.
        inputs: for each pass, how its inputs were computed.
        calls: the calls of the criterion, in order.
    """

    programs: list[Program] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    calls: list[CriterionCall] = field(default_factory=list)


class DryRun:
    """Runs the user's loop on two and on three copies of one record; nothing is released.

    The loop sees an ordinary forward pass and its own criterion, so all of its code works. In parallel, the same calls
    are made on tensors whose records are tracked. The first reason why buckets cannot share a batch is stored as
    :attr:`problem`. The decision depends only on the calls, never on the values of records.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        """Why buckets cannot share a physical batch; None if nothing was found."""
        self.work = 0.0
        """Multiply-adds per record in the forward passes of a batch."""
        self._bytes = dict.fromkeys(RECORDS, 0)
        self.agreement = Agreement()
        self.constants = Constants()
        self.round = 0
        self._traces: list[list[Step]] = []
        self._arrived: dict[int, float] = {}
        self._gradients: list[Sequence[Tensor | None]] = []
        self._passes = 0
        self.accumulated = False
        """Whether backward() reached a trained parameter in the current dry run."""

    @property
    def is_over(self) -> bool:
        """Whether both dry runs are complete."""
        return self.round == len(RECORDS)

    @property
    def shown(self) -> float:
        """The loss value that the loop sees in the current dry run."""
        return SHOWN[self.round]

    @property
    def bytes_per_record(self) -> int:
        """Memory of the tensors of a batch's forward passes, per record; 0 if a dry run is missing."""
        few, more = RECORDS
        return max(0, self._bytes[more] - self._bytes[few]) // (more - few) if self.is_over else 0

    def add_bytes(self, records: int, made: int) -> None:
        """Add the memory of the tensors of a forward pass on this number of records."""
        self._bytes[records] += made

    def note(self, problem: str) -> None:
        """Store a problem, unless there is one already."""
        self.problem = self.problem or problem

    def begin(self) -> None:
        """Start the next dry run, or restart the current one after the loop was left."""
        self._passes = 0
        self._arrived = {}
        self._gradients = []
        self.accumulated = False
        self._bytes[RECORDS[self.round]] = 0
        if self.round == 0:
            self._traces = []
            self.agreement = Agreement()

    def add_pass(self, trace: list[Step], inputs: Any) -> Program | None:
        """Record the calls of a forward pass; in the second dry run, return the program of both.

        Raises:
            Coupled: the calls differ between the dry runs.
        """
        at, self._passes = self._passes, self._passes + 1
        if self.round == 0:
            self._traces.append(trace)
            self.agreement.inputs.append(inputs)
            return None
        if at >= len(self._traces):
            raise Coupled("the number of calls of the module depends on the number of records")
        program = Program.of(self._traces[at], trace)
        self.agreement.programs.append(program)
        if self.agreement.inputs[at] != inputs:
            raise Coupled("the way the loop computes the module's inputs depends on the number of records")
        return program

    def add_call(self, paths: Any, gradient: Sequence[Tensor | None]) -> int:
        """Record a call of the criterion and the gradient of its loss; return its number in this dry run."""
        at = len(self._gradients)
        self._gradients.append(gradient)
        if self.round == 0:
            self.agreement.calls.append(CriterionCall(paths))
        elif at >= len(self.agreement.calls) or self.agreement.calls[at].paths != paths:
            self.note("the way the loop computes the criterion's arguments depends on the number of records")
        return at

    def arrive(self, call: int, factor: float) -> None:
        """Record the gradient that backward() sends to the loss of a call."""
        self._arrived[call] = self._arrived.get(call, 0.0) + factor

    def end(self, gradients: list[Tensor | None], *, numbers_left: bool) -> None:
        """End the current dry run: check that the gradients are those of the criterion, times a factor of the loop.

        Args:
            gradients: the gradient of every trained parameter after backward().
            numbers_left: whether the loop read numbers from the batch before.
        """
        if self.problem is None:
            self._end(gradients, numbers_left)
        self.round += 1

    def _end(self, gradients: list[Tensor | None], numbers_left: bool) -> None:
        calls = self.agreement.calls
        if len(self._gradients) != len(calls) or self._passes != len(self._traces):
            self.note("the number of calls of the module or the criterion depends on the number of records")
        if not self._arrived or not self.accumulated:
            self.note("backward() was not called on the loss of the criterion that make_private returned")
        scale = self._common_scale(gradients)
        if self.problem is not None or scale is None:
            return
        for at, call in enumerate(calls):
            factor = scale * self._arrived.get(at, 0.0)
            if self.round == 0:
                call.factor = factor
            elif factor != call.factor:
                _LOG.warning(
                    "the loop changes the criterion's loss by more than a constant factor; the loss of every bucket "
                    "gets the factor %g instead. Move this computation into the criterion",
                    call.factor,
                )
            if numbers_left and factor not in (0.0, 1.0):
                self.note(
                    f"the loop reads numbers from the batch and multiplies the loss by {factor:g}, which may depend "
                    "on them; read them after backward()"
                )

    def _common_scale(self, gradients: list[Tensor | None]) -> float | None:
        """Return the common factor on all gradients after backward(): 1, or a power of 2 (from a gradient scaler)."""
        expected: list[Tensor | None] = [None] * len(gradients)
        for at, gradient in enumerate(self._gradients):
            for i, g in enumerate(gradient):
                if g is not None and at in self._arrived:
                    term = g.double() * self._arrived[at]
                    before = expected[i]
                    expected[i] = term if before is None else before + term
        pairs: list[tuple[Tensor, Tensor]] = []
        for g, e in zip(gradients, expected, strict=True):
            some = g if g is not None else e
            if some is not None:
                zero = torch.zeros_like(some, dtype=torch.float64)
                pairs.append((zero if g is None else g.double(), zero if e is None else e))
        length = sum(float(e.square().sum()) for _, e in pairs)
        if length == 0.0 and not any(bool(g.any()) for g, _ in pairs):
            return 1.0
        ratio = sum(float((g * e).sum()) for g, e in pairs) / length if length else math.inf
        scale = 2.0 ** round(math.log2(ratio)) if 0.0 < ratio < math.inf else math.inf
        apart = sum(float((g - scale * e).square().sum()) for g, e in pairs) if scale < math.inf else math.inf
        if not apart <= (TOLERANCE * scale) ** 2 * length:
            self.note(
                "the gradient is not that of the criterion alone: the loss has further terms, or gradients are "
                "changed between backward() and step()"
            )
            return None
        return scale
