"""One private run on several processes: who takes which bucket, and one noisy sum of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from heapq import heapreplace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .noise import NoiseSource
from .partition import IntArray

Value = TypeVar("Value")
_CPU = torch.device("cpu")


class _Answer(NamedTuple):
    """What a rank says when the roll is called."""

    failed: bool
    problem: bool
    at_pass: int
    at_step: int
    draw: int
    settings: int


class Ranks:
    """The processes that train one model together; a single process is the only one of its kind, and waits for nobody.

    All ranks draw the same buckets at every logical step, each takes its own share of them, and their sums are added
    up. The guarantee needs every drawn bucket to be in that sum once. So all follow the draws of rank 0 from the
    start of every pass, and before every sum the roll is called: nothing is billed or released unless all ranks are
    at the same step, of the same draw, and none has failed.

    Ranks trust one another: each sees the records that it draws, and the sums of its neighbours.

    Args:
        rank: of this process.
        size: number of processes.
        device: of the tensors that are exchanged; NCCL takes those on its GPU only.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device = _CPU) -> None:
        self.rank = rank
        self.size = size
        self._device = device
        self._pass = self._step = 0
        self._place = "make_private"
        self._in_step = False
        self._lost = False

    @classmethod
    def current(cls, device: torch.device) -> Ranks:
        """Those of torch.distributed's default process group, if there is one."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls()

    @property
    def adds_noise(self) -> bool:
        """One rank does, so that the sum has its noise once."""
        return self.rank == 0

    def agree(self, module: nn.Module, trained: Iterable[nn.Parameter], **facts: object) -> None:
        """Compare what every rank was told, then start all from rank 0's parameters and buffers.

        Args:
            module: whose parameters and buffers are compared by name, shape and type.
            trained: the parameters that are summed, compared in this order.
            facts: what else has to be the same, by name.

        Raises:
            ValueError: on every rank; says what differs.
            RuntimeError: another rank did not come this far.
        """
        if self.size == 1:
            return
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        names = {id(p): name for name, p in tensors.items()}
        shapes = {name: f"{tuple(t.shape)} {t.dtype}" for name, t in tensors.items()}
        order = {f"trained parameter {i}": names[id(p)] for i, p in enumerate(trained)}
        mine = {**facts, **order, **{f"tensor {name!r}": shape for name, shape in shapes.items()}}
        every: list[dict[str, object]] = [{}] * self.size
        with self._waiting("Nothing was released"):
            dist.all_gather_object(every, mine)
        if different := _differences(every):
            raise ValueError(
                f"the ranks disagree on {'; '.join(different)}. Call make_private with the same arguments on every rank"
            )
        for tensor in (t for t in tensors.values() if t.numel()):
            # Bytes, because the backends do not know every type and layout.
            sent = tensor.detach().to(self._device).clone(memory_format=torch.contiguous_format)
            with self._waiting("Nothing was released"):
                dist.broadcast(sent.view(-1).view(torch.uint8), src=0)
            with torch.no_grad():
                tensor.copy_(sent)

    def share(self, drawn: IntArray, sizes: IntArray) -> IntArray:
        """The drawn buckets that this rank takes: the longest first, each to the rank with the fewest records.

        Args:
            drawn: ids of the buckets (n,), the same on every rank.
            sizes: their records (n,).

        Returns:
            Some of ``drawn``, in their order; every bucket is one rank's.
        """
        if self.size == 1:
            return drawn
        taken_by = np.empty(len(drawn), dtype=np.int64)
        loads = [(0, rank) for rank in range(self.size)]
        weights = sizes.tolist()
        for i in np.argsort(-sizes, kind="stable").tolist():
            load, rank = loads[0]
            taken_by[i] = rank
            heapreplace(loads, (load + weights[i], rank))
        mine: IntArray = drawn[taken_by == self.rank]
        return mine

    def digest(self, drawn: IntArray) -> int:
        """What the ranks compare of a draw."""
        return 0 if self.size == 1 else _digest(drawn.tobytes())

    def begin_pass(self, source: NoiseSource, *, released: int) -> None:
        """Wait for all ranks, and follow the draws of rank 0: a loop that was left early may have drawn more.

        Args:
            source: of the draws.
            released: logical steps so far; they differ if only some ranks go on from a checkpoint.

        Raises:
            RuntimeError: another rank is elsewhere, or gone.
        """
        if self.size == 1:
            return
        self._pass, self._step = self._pass + 1, released
        self._place = f"pass {self._pass}"
        self._in_step = True
        self._call_roll()
        key = source.key().to(self._device)
        with self._waiting("Nothing of this pass was released"):
            dist.broadcast(key, src=0)
        source.follow(key.cpu())

    def of_first(self, value: Value) -> Value:
        """What rank 0 has, on every rank.

        Raises:
            RuntimeError: another rank is gone.
        """
        if self.size == 1:
            return value
        sent = [value]
        with self._waiting("Nothing of this pass was released"):
            dist.broadcast_object_list(sent, src=0, device=self._device)
        return sent[0]

    def any(self, problem: bool) -> bool:
        """Whether any rank has a problem; all ranks get the same answer.

        Raises:
            RuntimeError: another rank is elsewhere, or gone.
        """
        return problem if self.size == 1 else self._call_roll(problem=problem)

    def begin_sum(self, step: int, *, draw: int, settings: list[dict[str, Any]]) -> None:
        """Wait for all ranks at the end of a logical step, before any of it is billed; then :meth:`sum_` has to follow.

        Args:
            step: number of the logical step.
            draw: digest of what it drew.
            settings: of the optimizer; with others on another rank, the models would drift apart.

        Raises:
            RuntimeError: a rank failed, is elsewhere, or gone.
        """
        if self.size == 1:
            return
        self._step, self._place = step, f"logical step {step}"
        if not self._in_step:
            raise RuntimeError(
                f"{self._place}: the pass ended for all ranks when one of them failed; nothing was released. Begin "
                "the next pass on every rank"
            )
        self._call_roll(draw=draw, settings=_digest(_numbers(settings).encode()))
        self._lost = True  # until the sum is there

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over all ranks.

        Raises:
            RuntimeError: another rank is gone.
        """
        if self.size == 1:
            return
        self._lost = False
        with self._waiting("The step was billed, and nothing of it was released by this rank"):
            for tensor in tensors:
                dist.all_reduce(tensor)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """If what is inside fails, tell the others, who would wait for this rank at the next roll."""
        try:
            yield
        except Exception:
            if self._in_step:
                self._in_step = False
                with suppress(RuntimeError):  # what is raised here is what failed first
                    self._answers(_Answer(True, False, self._pass, self._step, 0, 0))
            raise

    def _call_roll(self, *, problem: bool = False, draw: int = 0, settings: int = 0) -> bool:
        """Whether any rank has a problem; all ranks see the same answers, so that they raise together."""
        answers = self._answers(_Answer(False, problem, self._pass, self._step, draw, settings))
        mine = answers[self.rank]
        # What a rank that goes on after an error has left of this step must not be summed with the next one.
        self._in_step, in_step = False, self._in_step
        if failed := [rank for rank, a in enumerate(answers) if a.failed]:
            raise RuntimeError(
                f"{self._place}: rank {failed[0]} raised an error in this step, which its own output shows; nothing "
                "of the step was released or billed on any rank"
            )
        where = [(a.at_pass, a.at_step) for a in answers]
        if len(set(where)) > 1:
            elsewhere = next(rank for rank, place in enumerate(where) if place != where[self.rank])
            there, here = ("pass {}, step {}".format(*where[rank]) for rank in (elsewhere, self.rank))
            raise RuntimeError(
                f"{self._place}: rank {elsewhere} is at {there}, this rank at {here}; nothing of the step was released "
                "or billed. Either one of them left its loop early: let every rank run its passes to the end, with "
                "steps_per_epoch as long as they should be. Or only some went on from a checkpoint"
            )
        if any(a.draw != mine.draw for a in answers):
            raise RuntimeError(
                f"{self._place}: the ranks did not draw the same buckets, so one of them would be counted twice; "
                "nothing of the step was released or billed. Take batches from the private loader in one loop only"
            )
        if any(a.settings != mine.settings for a in answers):
            raise RuntimeError(
                f"{self._place}: the ranks' optimizers have different settings (param_groups), and their models "
                "would drift apart; nothing of the step was released or billed. A rank without a bucket does not "
                "enter the loop in that step: schedule the learning rate after a pass, or in "
                "optimizer.original_optimizer.register_step_post_hook"
            )
        self._in_step = in_step
        return any(a.problem for a in answers)

    def _answers(self, mine: _Answer) -> list[_Answer]:
        sent = torch.tensor(mine, dtype=torch.int64, device=self._device)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        with self._waiting("Nothing of it was released or billed"):
            dist.all_gather(received, sent)
            return [_Answer(*row) for row in torch.stack(received).tolist()]

    @contextmanager
    def _waiting(self, consequence: str) -> Iterator[None]:
        """Say in our words what an error of the backend means: it has one for every way to lose a rank."""
        if self._lost:
            raise RuntimeError(
                f"{self._place}: the ranks lost one another earlier, and what one sends could be taken for something "
                "else; start all of them again"
            )
        self._lost = True
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"{self._place}: another rank died, left its loop, or took longer than the timeout of the process "
                f"group. {consequence}. Look at the other ranks' output for the first error, then start all of them "
                "again; if one was only slow, give torch.distributed.init_process_group a longer timeout"
            ) from error
        self._lost = False


ALONE = Ranks()
"""A single process."""


def _differences(every: list[dict[str, object]]) -> list[str]:
    names = dict.fromkeys(name for facts in every for name in facts)
    found = []
    for name in names:
        values = [facts.get(name, "nothing") for facts in every]
        if other := next((rank for rank, value in enumerate(values) if value != values[0]), None):
            found.append(f"{name} ({values[0]} on rank 0, {values[other]} on rank {other})")
    return found


def _numbers(settings: list[dict[str, Any]]) -> str:
    """To six digits: machines that round differently are not told apart, nor are functions, which have addresses."""
    values = [
        (name, f"{value:.6g}" if isinstance(value, float) else value)
        for group in settings
        for name, value in group.items()
        if isinstance(value, float | int | tuple | Tensor)
    ]
    return repr(values)


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)
