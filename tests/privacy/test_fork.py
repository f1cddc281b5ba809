"""A forked process repeats neither the noise nor the draws of its parent.

Modules: dpmi/privacy/noise.py, dpmi/privacy/optimizer.py, dpmi/privacy/sampling.py.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dpmi.privacy.noise import NoiseMode, NoiseSource

from .test_noise import source_of
from .test_one_draw import Run

UNSEEDED = (NoiseMode.ORDINARY, NoiseMode.SECURE)


def in_fork(function: Callable[[], Any]) -> Any:
    """What the function returns, or the error that it raises, in a fork of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                found = function()
            except Exception as error:
                found = error
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(found, pipe)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(content)


def noise(source: NoiseSource) -> Tensor:
    flat = torch.empty(8)
    source.fill_(flat, 1.0)
    return flat


@pytest.mark.parametrize("mode", UNSEEDED)
@pytest.mark.parametrize("take", [noise, lambda source: source.uniform(8)], ids=["noise", "draws"])
def test_an_unseeded_source_begins_anew(mode: NoiseMode, take: Callable[[NoiseSource], Tensor]) -> None:
    source = source_of(mode)
    source.follow(source.key())  # what several ranks have in common is not a fork's either
    found = [in_fork(lambda: [take(source).tolist() for _ in range(2)]) for _ in range(2)]
    values = [*found[0], *found[1], *(take(source).tolist() for _ in range(2))]
    assert len({tuple(value) for value in values}) == len(values)


@pytest.mark.parametrize("what", ["draws_state", "noise_state", "key"])
def test_nor_does_it_tell_the_state_of_its_parent(what: str) -> None:
    for mode in UNSEEDED if what == "key" else (NoiseMode.ORDINARY,):
        source = source_of(mode)
        source.follow(source.key())
        own = getattr(source, what)().tolist()
        assert getattr(source, what)().tolist() == own
        assert in_fork(lambda source=source: getattr(source, what)().tolist()) != own


def test_a_seeded_source_is_refused() -> None:
    source = source_of(NoiseMode.SEEDED)
    for use in (noise, lambda source: source.uniform(3), lambda source: source.noise_state()):
        error = in_fork(lambda use=use: use(source))
        assert isinstance(error, RuntimeError)
        assert "forked after make_private" in str(error)
        assert "call make_private in the process that trains" in str(error)
    assert len(source.uniform(3)) == 3


def test_a_training_that_is_forked_between_steps_goes_on_with_other_draws_and_noise() -> None:
    run = Run(seed=None, noise_multiplier=1.0, sampling_rate=0.5).train(1)

    def train() -> tuple[list[list[int]], list[float]]:
        run.train(5)
        return run.steps[1:], run.model.bias.tolist()

    (drawn, bias), (others, other_bias) = in_fork(train), in_fork(train)
    own, own_bias = train()
    assert len({str(steps) for steps in (drawn, others, own)}) == 3
    assert len({str(b) for b in (bias, other_bias, own_bias)}) == 3


def test_a_draw_is_not_released_by_parent_and_child() -> None:
    """Left in the middle of a logical step, it is the parent's."""
    run = Run(seed=None, sampling_rate=0.5).train(1)
    for x, y, index in run.loader:
        run.step(x, y, index)
        break
    run.taken = []
    pending = run.loader.draws.pending
    assert len(pending) == 1
    assert in_fork(lambda: len(run.loader.draws.pending)) == 0
    assert run.loader.draws.pending == pending
    assert in_fork(lambda: run.train(2).steps[1:]) != run.train(2).steps[1:]


def test_a_step_that_was_begun_in_the_parent_is_not_released_by_the_child() -> None:
    run = Run(
        seed=None, noise_multiplier=1.0, sampling_rate=1.0, max_physical_batch_size=6, steps_per_epoch=1
    )
    batches = iter(run.loader)
    for _ in range(9):
        run.step(*next(batches))

    def finish() -> Any:
        for batch in batches:
            run.step(*batch)

    error = in_fork(finish)
    assert isinstance(error, RuntimeError)
    assert "forked within a logical step" in str(error)
    assert run.engine.ledger.steps == 0
    finish()
    assert run.engine.ledger.steps == 1
