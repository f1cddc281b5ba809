"""The battery of ``dpmi audit engine``: audited trainings of every kind, side by side in processes."""

from __future__ import annotations

import multiprocessing
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from ..finding import Finding
from .rows import Row, rows
from .trainings import Configuration, examined

DELTA = 1e-5

TIMEOUT = 120.0
"""Seconds that one rank waits for another."""

BATTERY = (
    Configuration(strategy="stream", partition="class"),
    Configuration(strategy="stream", partition="class", physical=10, network="cnn", secure=True),
    Configuration(strategy="stream", partition="subclass", physical=4, loop="left early"),
    Configuration(strategy="stream", partition="user", loop="resumed"),
    Configuration(strategy="hooks", partition="user", network="cnn"),
    Configuration(strategy="hooks", partition="subclass", physical=24, loop="left early"),
    Configuration(strategy="hooks", partition="user", physical=24, secure=True),
    Configuration(strategy="ghost", partition="user", physical=24, network="cnn"),
    Configuration(strategy="ghost", partition="class", physical=10),
    Configuration(strategy="ghost", partition="subclass", network="wide", secure=True, loop="resumed"),
    Configuration(strategy="stream", partition="class", sampling_rate=0.005, noise_multiplier=0.7, steps=300),
    Configuration(strategy="hooks", partition="user", sampling_rate=1.0, noise_multiplier=2.0, steps=1),
    Configuration(strategy="stream", partition="class", physical=10, ranks=2),
    Configuration(strategy="hooks", partition="user", physical=24, secure=True, ranks=2),
)


def audit_engine(
    configurations: Sequence[Configuration] = BATTERY,
    *,
    workers: int = 1,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Train and audit every configuration.

    Args:
        configurations: what to train.
        workers: processes that train configurations of one rank; with 1, this process does.
        tell: called with the number of configurations that are done.

    Returns:
        Two rows per configuration, in an order of their own: those with several ranks last.

    Raises:
        RuntimeError: the processes of several ranks failed.
    """
    found = []
    tell(0)
    for configuration, finding in examine(configurations, workers=workers):
        found += rows(str(configuration), finding, delta=DELTA)
        tell(len(found) // 2)
    return found


def examine(
    configurations: Sequence[Configuration], *, workers: int = 1
) -> Iterator[tuple[Configuration, Finding]]:
    """Train the configurations; those with several ranks in processes of their own, beside the others.

    Raises:
        RuntimeError: the processes of several ranks failed.
    """
    alone = [c for c in configurations if c.ranks == 1]
    with ExitStack() as stack:
        sizes = sorted({c.ranks for c in configurations if c.ranks > 1})
        groups = [
            stack.enter_context(_Group(size, [c for c in configurations if c.ranks == size]))
            for size in sizes
        ]
        run: Callable[..., Iterator[Finding]] = map
        if workers > 1:
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=_processes())).map
        yield from zip(alone, run(_alone, alone), strict=True)
        for group in groups:
            yield from zip(group.configurations, group.results(), strict=True)


def _alone(configuration: Configuration) -> Finding:
    with _one_thread():
        return cast("Finding", examined(configuration))


def _processes() -> Any:
    """Return how processes start: where the system can, as forks of one that has made the slow imports."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["sklearn.datasets", "torch._dynamo", __name__])
    return context


def _store(port: int, **options: Any) -> Any:
    """Return a store of this machine; PyTorch's builds for Windows may lack libuv."""
    return dist.TCPStore("127.0.0.1", port, use_libuv=sys.platform != "win32", **options)  # type: ignore[attr-defined]


class _Group:
    """Processes that train configurations of several ranks together.

    Args:
        size: number of ranks.
        configurations: what they train, one after the other.
    """

    def __init__(self, size: int, configurations: list[Configuration]) -> None:
        context = _processes()
        self.configurations = configurations
        self._store = _store(0, is_master=True, wait_for_workers=False)
        self._answers = context.Queue()
        self._processes = [
            context.Process(
                target=_rank, args=(rank, size, self._store.port, configurations, self._answers), daemon=True
            )
            for rank in range(size)
        ]

    def __enter__(self) -> _Group:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def results(self) -> list[Finding]:
        """Wait for the results of rank 0.

        Raises:
            RuntimeError: a process failed or died.
        """
        while True:
            try:
                answer = self._answers.get(timeout=1.0)
            except queue.Empty:
                if dead := [p.exitcode for p in self._processes if p.exitcode]:
                    raise RuntimeError(
                        f"a process of the two-rank trainings ended with exit code {dead[0]}; its output says why"
                    ) from None
                continue
            if isinstance(answer, str):
                raise RuntimeError(f"a process of the two-rank trainings failed: {answer}")
            return [Finding.from_dict(finding) for finding in answer]


def _rank(rank: int, size: int, port: int, configurations: list[Configuration], answers: Any) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=TIMEOUT)
    store = _store(port, timeout=limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
    try:
        found = [examined(configuration) for configuration in configurations]
        if rank == 0:
            answers.put([finding.to_dict() for finding in filter(None, found)])
    except Exception as error:
        answers.put(f"rank {rank}: {type(error).__name__}: {error}")
        raise
    dist.barrier()
    dist.destroy_process_group()


@contextmanager
def _one_thread() -> Iterator[None]:
    """The models are so small that several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
