"""Every way to compute a step, by name: it runs a step, returns its seconds, and gives the weights."""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ..steps import Data, ordinary_epoch, per_record_step, private_step
from .environments import python_of
from .padded_vmap import padded, vmap_step
from .protocol import Worker
from .rows import JAX, OPACUS, PFL, VMAP, Row

RATE = 0.1


class Way(Protocol):
    """Runs steps from the row's initial weights."""

    def step(self) -> float:
        """Run one step; return its seconds."""

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights after the steps so far, by name."""


class _Here:
    """A way in this process."""

    def __init__(self, model: nn.Module, make: Callable[[nn.Module], Callable[[], None]]) -> None:
        self._model = model
        self._run = make(model)

    def step(self) -> float:
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start

    def weights(self) -> dict[str, np.ndarray]:
        return _weights(self._model)


def ours(row: Row, data: Data) -> Way:
    """dpmi's step, without noise and with every user."""
    make = partial(
        private_step,
        data=data,
        rule=_rule,
        sampling_rate=1.0,
        noise_multiplier=0.0,
        max_grad_norm=row.max_grad_norm,
        max_physical_batch_size=row.private_batch,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="noise_multiplier is 0")
        return _Here(row.model(), make)


def ordinary(row: Row, data: Data, batch_size: int) -> Way:
    """An epoch without privacy."""
    return _Here(row.model(), partial(ordinary_epoch, data=data, batch_size=batch_size, rule=_rule))


@contextlib.contextmanager
def peer(name: str, row: Row, data: Data) -> Iterator[Way]:
    """Make the step of a peer by name.

    Raises:
        NotInstalled: its environment is not installed.
    """
    if name == OPACUS:
        make = partial(
            per_record_step,
            data=data,
            record_batch=row.record_batch,
            max_grad_norm=row.max_grad_norm,
            noise_multiplier=0.0,
            rule=_rule,
        )
        yield _Here(row.model(), make)
    elif name == VMAP:
        make = partial(
            vmap_step,
            data=data,
            longest=int(row.sizes.max()),
            users_at_once=row.users_at_once,
            max_grad_norm=row.max_grad_norm,
            rate=RATE,
        )
        yield _Here(row.model(), make)
    else:
        with tempfile.TemporaryDirectory() as folder:
            worker = {JAX: _jax, PFL: _pfl}[name](row, data, Path(folder))
            try:
                yield worker
            finally:
                worker.close()


def _jax(row: Row, data: Data, folder: Path) -> Worker:
    parts = zip(("inputs", "targets", "mask"), padded(data, int(row.sizes.max())), strict=True)
    settings = {"network": row.network, "users_at_once": row.users_at_once}
    return Worker(
        python_of(JAX),
        "benchmarks.peers.jax_worker",
        folder,
        settings={**settings, "max_grad_norm": row.max_grad_norm, "learning_rate": RATE},
        data={name: part.numpy() for name, part in parts},
        weights=initial(row),
    )


def _pfl(row: Row, data: Data, folder: Path) -> Worker:
    inputs, targets, partition = data
    order, start = partition.by_bucket
    torch.save(row.model(), folder / "model.pt")
    return Worker(
        python_of(PFL),
        "benchmarks.peers.pfl_worker",
        folder,
        settings={"max_grad_norm": row.max_grad_norm, "learning_rate": RATE},
        data={"inputs": inputs[order].numpy(), "targets": targets[order].numpy(), "start": start},
        weights={},  # the model has them
    )


_rule = partial(torch.optim.SGD, lr=RATE)


def initial(row: Row) -> dict[str, np.ndarray]:
    """Return the weights before the first step, by name."""
    return _weights(row.model())


def _weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
