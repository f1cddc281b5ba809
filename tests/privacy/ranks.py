"""Processes for the tests, and what they train."""

from __future__ import annotations

import multiprocessing
import queue
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

from .reference import step

LIMIT = 60.0
"""Seconds until a test gives up."""

N = 24
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 6

# One server imports once what an optimizer needs; every rank of every test is a fork of it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["hypothesis", "pytest", "torch._dynamo", "dpmi.privacy"])


def on_ranks(
    target: Callable[..., Any], *args: Any, ranks: int = 2, answers: int | None = None, timeout: float = LIMIT
) -> list[Any]:
    """What ``target(rank, *args)`` returned on every rank, or the error that it raised; None of one that was lost.

    All processes stay until the last one has answered, so that nobody learns of an error from a closed connection.
    """
    found: Any = PROCESSES.Queue()
    leave = PROCESSES.Event()
    # The group's store is a server of this process, on a port that was free.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = [
        PROCESSES.Process(target=_child, args=(rank, ranks, target, args, store.port, timeout, found, leave))
        for rank in range(ranks)
    ]
    for child in children:
        child.start()
    result: list[Any] = [None] * ranks
    try:
        for _ in range(ranks if answers is None else answers):
            rank, result[rank] = found.get(timeout=LIMIT)
    except queue.Empty:
        pytest.fail(f"no answer within {LIMIT} s; so far {result}")
    finally:
        leave.set()
        for child in children:
            child.join(LIMIT)
            child.kill()
    return result


def _child(
    rank: int,
    ranks: int,
    target: Callable[..., Any],
    args: tuple[Any, ...],
    port: int,
    timeout: float,
    found: Any,
    leave: Any,
) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=timeout)
    store = dist.TCPStore("127.0.0.1", port, timeout=limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=limit)
    warnings.simplefilter("ignore")
    try:
        answer = target(rank, *args)
    except Exception as error:
        answer = error
    found.put((rank, answer))
    leave.wait(LIMIT)


def weights(module: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).numpy().copy()


def wrap(model: nn.Module | None = None, **options: Any) -> tuple[Any, ...]:
    """Six buckets of four records, all drawn at every step, in physical batches of four.

    Returns:
        The engine, and what make_private returns.
    """
    engine = PrivacyEngine()
    if model is None:
        torch.default_generator.manual_seed(0)
        model = nn.Linear(4, 6)
    arguments: dict[str, Any] = {
        "module": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "data_loader": DataLoader(TensorDataset(X, Y), batch_size=8),
        "partition": Partition.by_class(Y.numpy()),
        "sampling_rate": 1.0,
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
        "max_physical_batch_size": 4,
        "steps_per_epoch": 3,
        **options,
    }
    return engine, *engine.make_private(**arguments)


def failed_hook(rank: int, module: nn.Module, optimizer: Any, loader: Any) -> str:
    """Fail on rank 1 when all have agreed on a step, before it charges the step; return each rank's error."""

    def fail(_: Any) -> None:
        raise OSError("disk full")

    if rank == 1:
        optimizer.attach_step_hook(fail)
    with pytest.raises(OSError if rank else RuntimeError) as error:
        for x, y in loader:
            step(module, optimizer, x, y)
    return str(error.value)
