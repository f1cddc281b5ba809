"""Executors of the jobs of a study: processes of this machine, or of a Ray cluster."""

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
    """An open executor, valid inside its context."""

    do: Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
    """Calls a function once per tuple of arguments, in parallel; returns the results in the same order."""
    queue: Callable[[], AbstractContextManager[Queue[Any]]]
    """Makes a queue that this process and every worker can use."""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The processes that compute the jobs of a study.

    Executor "ray" uses the first Ray cluster of this list: the one to which this process is connected; the one at
    ``address``; the one that the environment variable RAY_ADDRESS names; one that runs on this machine. If there is
    none, it starts a cluster with a warning and stops it at the end. Every machine of the cluster needs the same
    version of dpmi and must see the store's folder and the data root under the same paths. With executor "local", a
    single job or a single worker runs in this process.

    Args:
        workers: number of parallel jobs; default: one per core. With Ray: default and maximum are one per CPU of the
            cluster, and the run waits until that many CPUs are free.
        executor: "local" (processes of this machine) or "ray".
        address: address of a running Ray cluster, such as "10.0.0.1:6379"; "local" always starts a new cluster.

    >>> Machines(workers=2).check()  # nothing is opened yet
    >>> try:
    ...     Machines(executor="slurm").check()
    ... except ValueError as error:
    ...     print(error)
    executor is 'slurm'; it must be one of local, ray
    """

    workers: int | None = None
    executor: str = "local"
    address: str | None = None

    def check(self) -> None:
        """Check that the executor can be opened, before anything is written.

        Raises:
            ValueError: no executor has this name.
            RuntimeError: the executor's package is not installed.
            ConnectionError: no cluster answers at the address.
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
        """Open the executor for this number of jobs."""
        return EXECUTORS[self.executor](self.workers, self.address, jobs)


@contextmanager
def _local(workers: int | None, address: str | None, jobs: int) -> Iterator[Executor]:
    def do(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        processes = Parallel(n_jobs=min(workers or os.cpu_count() or 1, jobs))
        return list(processes(delayed(function)(*arguments) for arguments in calls))

    yield Executor(do, _managed_queue)


@contextmanager
def _ray(workers: int | None, address: str | None, jobs: int) -> Iterator[Executor]:
    """Use the caller's connection to Ray, or open one and close it at the end.

    The jobs run in Ray actors. Ray's joblib backend is not used: its threads outlive it and connect to Ray again.
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
            "Ray could not finish a job. Completed trials are stored; run the same study again to resume. "
            f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        ) from error
    finally:
        if mine:
            ray.shutdown()


class _Worker:
    """A Ray actor that calls functions."""

    def do(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(*arguments)


def _by_actors(workers: int, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Distribute the calls over this number of Ray actors, and always stop the actors at the end."""
    import ray  # noqa: PLC0415
    from ray.util import ActorPool  # noqa: PLC0415

    # By default an actor reserves no CPU, and Ray may place all actors on one machine.
    actors = [ray.remote(num_cpus=1)(_Worker).remote() for _ in range(workers)]
    try:
        return list(ActorPool(actors).map(lambda actor, call: actor.do.remote(function, call), calls))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for actor in actors:
            ray.kill(actor)


_ANY = ("auto", "local")
"""Addresses without a host: the cluster that runs on this machine, or a new one."""

EXECUTORS: dict[str, Callable[[int | None, str | None, int], AbstractContextManager[Executor]]] = {
    "local": _local,
    "ray": _ray,
}
"""Executors by name; each takes the workers and the address of :class:`Machines`, and the number of jobs."""


def _connect(address: str | None, cpus: int) -> None:
    """Connect to the cluster at this address, to one that runs on this machine, or to a new one."""
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
                f"no running Ray cluster found ({reason}); starting one on this machine with {cpus} CPUs",
                stacklevel=2,
            )
    ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)


def _address(asked: str | None) -> str:
    return asked or os.environ.get("RAY_ADDRESS") or "auto"


def _knock(address: str) -> None:
    """Fail at once if no cluster answers; Ray itself retries for a quarter of an hour."""
    try:
        url = urlsplit(address if "//" in address else f"//{address}")
        socket.create_connection((url.hostname, url.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address!r} ({error}); give host:port") from error


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
    """End the queue's process when the parent process dies; a killed parent cannot stop it."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
