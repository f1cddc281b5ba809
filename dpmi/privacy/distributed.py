"""One private run on several processes: the drawn buckets are divided among the ranks, and summed with one noise."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
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
    """The status that a rank sends in a roll call."""

    failed: bool
    problem: bool
    at_pass: int
    at_step: int
    draw: int
    settings: int


class Ranks:
    """The processes that train one model together; with one process every call is a no-op.

    All ranks draw the same buckets at every logical step. Each rank processes its own share of them, and the partial
    sums are added. For the guarantee, every drawn bucket must be in that sum exactly once. Therefore all ranks follow
    the draws of rank 0 from the start of every pass. Before every sum, the ranks exchange their status in a roll call:
    nothing is charged or released unless all ranks are at the same step with the same draw, and no rank has failed.

    The ranks must trust each other: each rank sees the records that it draws, and the partial sums of others.

    Args:
        rank: number of this process.
        size: number of processes.
        device: device of the exchanged tensors; NCCL needs its own GPU.
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
        """Return the ranks of torch.distributed's default process group, or a single process without one."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls()

    @property
    def adds_noise(self) -> bool:
        """Whether this rank adds the noise; exactly one rank does."""
        return self.rank == 0

    def agree(self, module: nn.Module, trained: Iterable[nn.Parameter], **facts: object) -> None:
        """Compare the arguments of all ranks, then copy rank 0's parameters and buffers to all.

        Args:
            module: its parameters and buffers are compared by name, shape and type.
            trained: the parameters that are summed, compared in this order.
            facts: further values that must be equal, by name.

        Raises:
            ValueError: the ranks disagree; raised on every rank, and names the difference.
            RuntimeError: another rank did not reach this call.
        """
        if self.size == 1:
            return
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        names = {id(p): name for name, p in tensors.items()}
        shapes = {name: f"{tuple(t.shape)} {t.dtype}" for name, t in tensors.items()}
        order = {f"trained parameter {i}": names[id(p)] for i, p in enumerate(trained)}
        self.compare({**facts, **order, **{f"tensor {name!r}": shape for name, shape in shapes.items()}})
        for tensor in (t for t in tensors.values() if t.numel()):
            # Sent as bytes, because the backends do not support every type and layout.
            sent = tensor.detach().to(self._device).clone(memory_format=torch.contiguous_format)
            with self.waiting("Nothing was released"):
                dist.broadcast(sent.view(-1).view(torch.uint8), src=0)
            with torch.no_grad():
                tensor.copy_(sent)

    def compare(self, facts: Mapping[str, object]) -> None:
        """Compare values that must be equal on all ranks, by name.

        Raises:
            ValueError: the ranks disagree; raised on every rank, and names the difference.
            RuntimeError: another rank did not reach this call.
        """
        if self.size == 1:
            return
        every: list[Mapping[str, object]] = [{}] * self.size
        with self.waiting("Nothing was released"):
            dist.all_gather_object(every, facts)
        if different := _differences(every):
            raise ValueError(
                f"the ranks disagree on {'; '.join(different)}. Call make_private with the same arguments on every rank"
            )

    def share(self, drawn: IntArray, sizes: IntArray) -> IntArray:
        """Return this rank's share: the largest bucket first, each bucket goes to the rank with the fewest records.

        Args:
            drawn: ids of the buckets (n,), the same on every rank.
            sizes: their numbers of records (n,).

        Returns:
            A subset of ``drawn``, in the same order; every bucket belongs to exactly one rank.
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
        """Return a hash of a draw, which the ranks compare."""
        return 0 if self.size == 1 else _digest(drawn.tobytes())

    def begin_pass(self, source: NoiseSource, *, released: int) -> None:
        """Wait for all ranks, then follow the draws of rank 0; a rank that left a loop early may have drawn more.

        Args:
            source: the random source of the draws.
            released: logical steps released so far; they differ if only some ranks resumed from a checkpoint.

        Raises:
            RuntimeError: another rank is at a different step, or is lost.
        """
        if self.size == 1:
            return
        self._pass, self._step = self._pass + 1, released
        self._place = f"pass {self._pass}"
        self._in_step = True
        self._call_roll()
        key = source.key().to(self._device)
        with self.waiting("Nothing of this pass was released"):
            dist.broadcast(key, src=0)
        source.follow(key.cpu())

    def of_first(self, value: Value) -> Value:
        """Return rank 0's value on every rank.

        Raises:
            RuntimeError: another rank is lost.
        """
        if self.size == 1:
            return value
        sent = [value]
        with self.waiting("Nothing of this pass was released"):
            dist.broadcast_object_list(sent, src=0, device=self._device)
        return sent[0]

    def any(self, problem: bool) -> bool:
        """Return whether any rank has a problem; the result is the same on all ranks.

        Raises:
            RuntimeError: another rank is at a different step, or is lost.
        """
        return problem if self.size == 1 else self._call_roll(problem=problem)

    def begin_sum(self, step: int, *, draw: int, settings: list[dict[str, Any]]) -> None:
        """Wait for all ranks at the end of a logical step, before it is charged; :meth:`sum_` must be called next.

        Args:
            step: number of the logical step.
            draw: hash of its draw.
            settings: the optimizer's settings; with different ones on another rank, the models would diverge.

        Raises:
            RuntimeError: a rank failed, is at a different step, or is lost.
        """
        if self.size == 1:
            return
        self._step, self._place = step, f"logical step {step}"
        self._call_roll(draw=draw, settings=_digest(_numbers(settings).encode()))
        self._lost = True  # until sum_ is called

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over all ranks.

        Raises:
            RuntimeError: another rank is lost.
        """
        if self.size == 1:
            return
        self._lost = False
        with self.waiting("The step was charged, but this rank released nothing of it"):
            for tensor in tensors:
                dist.all_reduce(tensor)

    def meet_after_update(self) -> None:
        """Wait for all ranks after the update of a step, before the updated shards are gathered.

        Raises:
            RuntimeError: the update failed on another rank, or it is lost.
        """
        if self.size > 1:
            self._call_roll(consequence="The step was charged, but not released")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """If the body fails, inform the other ranks, which would otherwise wait for this rank at the next roll call."""
        try:
            yield
        except Exception:
            self.tell_failure()
            raise

    def tell_failure(self) -> None:
        """Inform the other ranks that this one failed in a step; once for each step, and errors of this are ignored."""
        if self._in_step:
            self._in_step = False
            with suppress(RuntimeError):  # the caller raises the original error
                self._answers(_Answer(True, False, self._pass, self._step, 0, 0), consequence="")

    def _call_roll(
        self,
        *,
        problem: bool = False,
        draw: int = 0,
        settings: int = 0,
        consequence: str = "Nothing of it was released or charged",
    ) -> bool:
        """Return whether any rank has a problem. All ranks get the same answers, so they raise the same errors."""
        if not self._in_step:
            raise RuntimeError(
                f"{self._place}: one rank failed, which ended the pass on all ranks; nothing was released. Start "
                "the next pass on every rank"
            )
        answers = self._answers(
            _Answer(False, problem, self._pass, self._step, draw, settings), consequence=consequence
        )
        mine = answers[self.rank]
        # If a rank continues after an error, the rest of its step must not be summed with the next one.
        self._in_step, in_step = False, self._in_step
        if failed := [rank for rank, a in enumerate(answers) if a.failed]:
            raise RuntimeError(
                f"{self._place}: rank {failed[0]} raised an error in this step, see its output. {consequence} "
                "on any rank. Fix the error, then start the next pass on every rank"
            )
        where = [(a.at_pass, a.at_step) for a in answers]
        if len(set(where)) > 1:
            elsewhere = next(rank for rank, place in enumerate(where) if place != where[self.rank])
            there, here = ("pass {}, step {}".format(*where[rank]) for rank in (elsewhere, self.rank))
            raise RuntimeError(
                f"{self._place}: rank {elsewhere} is at {there}, this rank at {here}; nothing of the step was released "
                "or charged. Possible causes: a rank left its loop early (run every pass to its end on every rank, and "
                "set its length by steps_per_epoch), or only some ranks resumed from a checkpoint (load it on all)"
            )
        if any(a.draw != mine.draw for a in answers):
            raise RuntimeError(
                f"{self._place}: the ranks did not draw the same buckets, so a bucket could be counted twice; "
                "nothing of the step was released or charged. Iterate over the private loader in one loop only"
            )
        if any(a.settings != mine.settings for a in answers):
            raise RuntimeError(
                f"{self._place}: the ranks' optimizers have different settings (param_groups), so their models "
                "would diverge; nothing of the step was released or charged. The loop body does not run on a rank "
                "without a bucket in that step: schedule the learning rate after a pass, or in "
                "optimizer.original_optimizer.register_step_post_hook"
            )
        self._in_step = in_step
        return any(a.problem for a in answers)

    def _answers(self, mine: _Answer, *, consequence: str) -> list[_Answer]:
        sent = torch.tensor(mine, dtype=torch.int64, device=self._device)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        with self.waiting(consequence):
            dist.all_gather(received, sent)
            return [_Answer(*row) for row in torch.stack(received).tolist()]

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Enclose messages that only make sense together: if the body fails, the other ranks wait for the rest."""
        try:
            yield
        except BaseException:
            self._lost = True
            raise

    @contextmanager
    def waiting(self, consequence: str) -> Iterator[None]:
        """Replace an error of the backend by one that says what it means; backends have many errors for a lost rank."""
        if self._lost:
            raise RuntimeError(
                f"{self._place}: the connection between the ranks was lost earlier, so messages could be mixed up; "
                "restart all ranks"
            )
        self._lost = True
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"{self._place}: another rank died, left its loop, or took longer than the timeout of the process "
                f"group. {consequence}. Look for the first error in the output of the other ranks, then restart all "
                "ranks; if one was only slow, give torch.distributed.init_process_group a longer timeout"
            ) from error
        self._lost = False


ALONE = Ranks()
"""The ranks of a single process."""


def _differences(every: list[Mapping[str, object]]) -> list[str]:
    names = dict.fromkeys(name for facts in every for name in facts)
    found = []
    for name in names:
        values = [facts.get(name, "nothing") for facts in every]
        if other := next((rank for rank, value in enumerate(values) if value != values[0]), None):
            found.append(f"{name} ({values[0]} on rank 0, {values[other]} on rank {other})")
    return found


def _numbers(settings: list[dict[str, Any]]) -> str:
    """Return the settings as text: numbers to six digits, as machines round differently; no functions."""
    values = [
        (name, f"{value:.6g}" if isinstance(value, float) else value)
        for group in settings
        for name, value in group.items()
        if isinstance(value, float | int | tuple | Tensor)
    ]
    return repr(values)


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)
