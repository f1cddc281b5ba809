"""Random generators: their state after a pass must not carry information on its records to the next pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

OF_A_KIND = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""The types of generators."""


class Generators:
    """The generators that a pass can reach, with their states when it first reads a number from its records.

    Later draws and seeds of the pass may depend on that number. :meth:`go_on` continues each generator from its stored
    state, as if nothing had been drawn since.

    Args:
        held: generators that the code of the pass can reach, besides the global ones of PyTorch, NumPy and Python.
    """

    def __init__(self, held: Iterable[Any]) -> None:
        everywhere = (torch.default_generator, *torch.cuda.default_generators, np.random, random)
        self._renew = [_renewal(g) for g in (*everywhere, *held)]

    def go_on(self) -> None:
        """Seed each generator from its stored state."""
        for renew in self._renew:
            renew()


def _renewal(generator: Any) -> Callable[[], None]:
    if isinstance(generator, torch.Generator):
        return partial(_renew_torch, generator, generator.get_state())
    if isinstance(generator, np.random.Generator):
        return partial(_renew_numpy, generator, generator.bit_generator.state)
    if generator is np.random or isinstance(generator, np.random.RandomState):
        return partial(_renew_legacy, generator, generator.get_state())
    if isinstance(generator, random.SystemRandom):  # has no state
        return lambda: None
    return partial(_renew_python, generator, generator.getstate())


def _renew_torch(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    generator.manual_seed(int(seed))


def _renew_numpy(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state
    kind: Any = type(generator.bit_generator)
    generator.bit_generator.state = kind(generator.integers(2**63, size=4)).state


def _renew_legacy(generator: Any, state: Any) -> None:
    generator.set_state(state)
    generator.seed(generator.randint(2**32, size=8, dtype=np.int64))


def _renew_python(generator: Any, state: Any) -> None:
    generator.setstate(state)
    generator.seed(generator.getrandbits(256))
