"""Where the jobs of a study are computed: by processes of this machine, or by those of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import parent_process
from multiprocessing.managers import SyncManager
from queue import Queue
from typing import Any
from urllib.parse import urlsplit

from joblib import Parallel, delayed


@dataclass(frozen=True)
class Executor:
    """An open executor, of use while its context lasts."""

    do: Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
    """Calls a function with each of these arguments, in parallel; the results are in their order."""
    queue: Callable[[], AbstractContextManager[Queue[Any]]]
    """Makes a queue that this process and every worker can reach."""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Which processes compute the jobs of a study.

    Executor "ray" computes on a Ray cluster: the one that this process is connected to; else the one at ``address``;
    else at the environment variable RAY_ADDRESS; else one that runs on this machine; else one that is started, with a
    warning, and stopped again. Every machine of a cluster needs the same dpmi, and must see the store's folder and the
    data root under the same paths. A single job, or one worker, computes in this process.

    Args:
        workers: jobs at a time; by default one per core, with Ray one per CPU of the cluster and never more; it
            waits until that many are free.
        executor: "local", processes of this machine, or "ray".
        address: of a running Ray cluster, such as "10.0.0.1:6379"; "local" starts one in any case.
    """

    workers: int | None = None
    executor: str = "local"
    address: str | None = None

    def check(self) -> None:
        """Refuse an executor that cannot be opened here, before anything is written.

        Raises:
            ValueError: there is none of that name.
            RuntimeError: its package is not installed.
            ConnectionError: nobody answers at the address.
        """
        if self.executor not in EXECUTORS:
            raise ValueError(f"executor is {self.executor!r}; it must be one of {', '.join(EXECUTORS)}")
        if self.executor == "ray" and find_spec("ray") is None:
            raise RuntimeError(
                "executor 'ray' needs a package that is not installed: pip install 'dpmi[ray]'"
            )
        if self.executor == "ray":
            import ray  # noqa: PLC0415 - an optional package

            if not ray.is_initialized() and (asked := _address(self.address)) not in _ANY:
                _knock(asked)

    def open(self, jobs: int) -> AbstractContextManager[Executor]:
        """Open the executor for that many jobs."""
        return EXECUTORS[self.executor](self.workers, self.address, jobs)


@contextmanager
def _local(workers: int | None, address: str | None, jobs: int) -> Iterator[Executor]:
    def do(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        processes = Parallel(n_jobs=min(workers or os.cpu_count() or 1, jobs))
        return list(processes(delayed(function)(*arguments) for arguments in calls))

    yield Executor(do, _managed_queue)


@contextmanager
def _ray(workers: int | None, address: str | None, jobs: int) -> Iterator[Executor]:
    """Use the caller's connection to Ray, or make one and end it.

    Ray's own actors, not its backend for joblib: the threads of that outlive it, and connect to Ray again.
    """
    import ray  # noqa: PLC0415 - an optional package

    mine = not ray.is_initialized()
    if mine:
        _connect(address, min(workers or os.cpu_count() or 1, jobs))
    try:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        yield Executor(partial(_by_actors, min(workers or cpus, cpus, jobs)), _ray_queue)
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            "Ray could not finish a job; what is complete is kept, and the same study goes on from there. "
            f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        ) from error
    finally:
        if mine:
            ray.shutdown()


class _Worker:
    """What a process of Ray is asked to do."""

    def do(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(*arguments)


def _by_actors(workers: int, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Share the calls among so many processes of Ray, and end these, whatever happens."""
    import ray  # noqa: PLC0415
    from ray.util import ActorPool  # noqa: PLC0415

    # Ray's default, a worker that reserves no CPU, may be put on the machine where all the others are already.
    actors = [ray.remote(num_cpus=1)(_Worker).remote() for _ in range(workers)]
    try:
        return list(ActorPool(actors).map(lambda actor, call: actor.do.remote(function, call), calls))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for actor in actors:
            ray.kill(actor)


_ANY = ("auto", "local")
"""For Ray: the cluster that runs here, or one that is started here."""

EXECUTORS: dict[str, Callable[[int | None, str | None, int], AbstractContextManager[Executor]]] = {
    "local": _local,
    "ray": _ray,
}
"""By name; each is called with the workers and the address that were asked for, and the number of jobs."""


def _connect(address: str | None, cpus: int) -> None:
    """Connect to the cluster at this address, or to one that runs here, or to a new one."""
    import ray  # noqa: PLC0415

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = _address(address)
    if address != "local":
        try:
            ray.init(address, **quiet)
            return
        except ConnectionError as error:
            if address != "auto":
                raise
            reason = str(error).partition(". ")[0]
            warnings.warn(
                f"no Ray cluster is used ({reason}); one is started here (CPUs: {cpus})", stacklevel=2
            )
    ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)


def _address(asked: str | None) -> str:
    return asked or os.environ.get("RAY_ADDRESS") or "auto"


def _knock(address: str) -> None:
    """Say at once that nobody is there: Ray itself tries for a quarter of an hour."""
    try:
        url = urlsplit(address if "//" in address else f"//{address}")
        socket.create_connection((url.hostname, url.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address!r} ({error}); name host:port") from error


@contextmanager
def _ray_queue() -> Iterator[Queue[Any]]:
    from ray.util.queue import Queue as RayQueue  # noqa: PLC0415

    queue = RayQueue(actor_options={"num_cpus": 0})
    try:
        yield queue
    finally:
        queue.shutdown()


@contextmanager
def _managed_queue() -> Iterator[Queue[Any]]:
    manager = SyncManager()
    manager.start(_end_with_parent)
    with manager:
        yield manager.Queue()


def _end_with_parent() -> None:
    """Let the queue's process end when the study is killed: nobody would ever tell it to."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
