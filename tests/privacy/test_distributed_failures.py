"""Ranks that disagree, fail or are lost: all of them say so, and nothing is released unbilled.

Modules: dpmi/privacy/distributed.py.
"""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import NonFiniteGradientError, Partition
from dpmi.privacy.distributed import Ranks

from .ranks import LIMIT, X, Y, failed_hook, on_ranks, weights, wrap
from .reference import step

TIMEOUT = 4.0
"""Of the process group, where a rank is lost on purpose."""

# When ranks do not agree


def disagreeing(rank: int, options: list[dict[str, Any]]) -> None:
    models = {
        "model": lambda: nn.Linear(4, 6),
        "other": lambda: nn.Linear(4, 6, bias=False),
        "on a GPU": lambda: nn.Linear(4, 6).cuda(),
    }
    given = dict(options[rank])
    wrap(models[given.pop("build", "model")](), **given)


def test_a_disagreement_is_named_on_every_rank() -> None:
    other = Partition.by_class(np.sort(Y.numpy()))
    for options, words in [
        (
            [{}, {"noise_multiplier": 2.0, "sampling_rate": 0.5, "steps_per_epoch": 4, "seed": 1}],
            ["noise_multiplier (1.0 on rank 0, 2.0 on rank 1)", "sampling_rate", "steps_per_epoch", "seed"],
        ),
        (
            [{"loss_reduction": "sum", "partition": other}, {"max_grad_norm": 3.0}],
            [f"partition ({other.hash}", "max_grad_norm", "loss_reduction (sum on rank 0, mean on rank 1)"],
        ),
        (
            [{}, {"build": "other"}],
            ["trained parameter 1 (bias on rank 0, nothing", "tensor 'bias' ((6,) torch.float32 on rank 0"],
        ),
    ]:
        for error in on_ranks(disagreeing, options):
            assert isinstance(error, ValueError)
            for word in words:
                assert word in str(error)


@pytest.mark.gpu
def test_a_rank_without_a_gpu_is_named_on_every_rank() -> None:
    for error in on_ranks(disagreeing, [{"build": "on a GPU"}, {}]):
        assert isinstance(error, ValueError)
        assert "device (cuda on rank 0, cpu on rank 1)" in str(error)


def apart(rank: int, how: str) -> Any:
    """Rank 1 does something of its own before its second step."""
    engine, module, optimizer, loader = wrap(sampling_rate=0.5, seed=1, steps_per_epoch=12)
    start = weights(module)
    try:
        for x, y in loader:
            if rank == 1 and optimizer.released_steps == 1:
                if how == "draw":
                    loader.draws.source.uniform(6)
                else:
                    optimizer.param_groups[0]["lr"] = 0.05
            step(module, optimizer, x, y)
    except RuntimeError as error:
        return str(error), engine.ledger.steps, optimizer.released_steps
    return weights(module) - start


@pytest.mark.parametrize(
    ("how", "words"),
    [("draw", "did not draw the same buckets"), ("rate", "optimizers have different settings")],
)
def test_ranks_that_drift_apart_release_nothing_more(how: str, words: str) -> None:
    for message, billed, released in on_ranks(apart, how):
        assert words in message
        assert billed == released


# When a rank is lost


def of_little_memory(rank: int) -> tuple[str, int, list[int], np.ndarray, int]:
    """Rank 1 has memory for two records."""

    class Layer(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if rank == 1 and len(input) > 2:
                raise torch.OutOfMemoryError
            found: Tensor = super().forward(input)
            return found

    torch.default_generator.manual_seed(0)
    engine, module, optimizer, loader = wrap(Layer(4, 6), noise_multiplier=0.0, seed=1)
    failed, sizes = "", []
    try:
        for x, y in loader:
            step(module, optimizer, x, y)
    except RuntimeError as error:
        failed = f"{type(error).__name__}: {error}"
    billed = engine.ledger.steps
    for x, y in loader:
        sizes.append(len(x))
        step(module, optimizer, x, y)
    return failed, billed, sizes, weights(module), engine.ledger.steps


def whole(rank: int) -> np.ndarray:
    _, module, optimizer, loader = wrap(noise_multiplier=0.0, seed=1)
    for x, y in loader:
        step(module, optimizer, x, y)
    return weights(module)


def test_a_rank_whose_batches_do_not_fit_loses_nothing() -> None:
    first, second = on_ranks(of_little_memory)
    assert "rank 1 raised an error in this step" in first[0]
    assert second[0].startswith("OutOfMemoryError")
    assert set(first[2]) == {4}
    assert set(second[2]) == {2}
    expected = on_ranks(whole)[0]
    for _, billed, _, found, steps in (first, second):
        assert (billed, steps) == (0, 3)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def poisoned(rank: int) -> tuple[type, str, int, np.ndarray, float, int]:
    x = X.clone()
    x[Y == 5] = math.nan  # of six equal buckets dealt in turns, the last is rank 1's
    engine, module, optimizer, loader = wrap(
        data_loader=DataLoader(TensorDataset(x, Y)), noise_multiplier=1.0
    )
    start = weights(module)
    began = time.perf_counter()
    failed: Exception | None = None
    try:
        for inputs, labels in loader:
            step(module, optimizer, inputs, labels)
    except RuntimeError as error:
        failed = error
    took = time.perf_counter() - began
    billed = engine.ledger.steps
    x[Y == 5] = 0.0
    for inputs, labels in loader:
        step(module, optimizer, inputs, labels)
    return type(failed), str(failed), billed, start, took, engine.ledger.steps


def test_a_rank_whose_bucket_is_not_finite_tells_the_others_at_once() -> None:
    one, two = on_ranks(poisoned)
    assert one[0] is RuntimeError
    assert "logical step 1: rank 1 raised an error" in one[1]
    assert two[0] is NonFiniteGradientError
    assert "bucket 5 (class 5)" in two[1]
    for _, _, billed, _, took, later in (one, two):
        assert billed == 0, "nothing was released"
        assert took < LIMIT / 10
        assert later == 3, "and the next pass is as good as any"


def going_on(rank: int) -> tuple[list[str], int]:
    """A loop that swallows errors and goes on."""
    x = X.clone()
    x[Y == 5] = math.nan
    engine, module, optimizer, loader = wrap(data_loader=DataLoader(TensorDataset(x, Y)))
    errors = []
    try:
        for inputs, labels in loader:
            try:
                step(module, optimizer, inputs, labels)
            except RuntimeError as error:
                errors.append(str(error))
    except RuntimeError as error:
        errors.append(str(error))
    return errors, engine.ledger.steps


def test_a_pass_in_which_a_rank_failed_is_over_even_for_a_loop_that_goes_on() -> None:
    for errors, billed in on_ranks(going_on):
        assert len(errors) == 2
        assert "bucket 5" in errors[0] or "rank 1 raised an error" in errors[0]
        assert "The pass has ended" in errors[1]
        assert billed == 0
    alone = Ranks(0, 2)
    with pytest.raises(RuntimeError, match="one rank failed, which ended the pass"):
        alone.begin_sum(1, draw=0, settings=[])


def lost(rank: int, how: str) -> tuple[str, int, int, float]:
    engine, module, optimizer, loader = wrap()
    began = time.perf_counter()
    try:
        for x, y in loader:
            step(module, optimizer, x, y)
            if rank == 1 and optimizer.released_steps == 1:
                if how == "break":
                    break
                os.kill(os.getpid(), signal.SIGKILL)
            began = time.perf_counter()
    except RuntimeError as error:
        took = time.perf_counter() - began
        with pytest.raises(RuntimeError, match="the connection between the ranks was lost"):
            next(iter(loader))
        return str(error), engine.ledger.steps, optimizer.released_steps, took
    return "", engine.ledger.steps, optimizer.released_steps, 0.0


@pytest.mark.parametrize(("how", "answers"), [("kill", 1), ("break", 2)])
def test_a_rank_that_is_gone_does_not_keep_the_others_waiting(how: str, answers: int) -> None:
    one, two = on_ranks(lost, how, answers=answers, timeout=TIMEOUT)
    message, billed, released, took = one
    assert "logical step 2: another rank died, left its loop, or took longer than" in message
    assert "Nothing of it was released or charged" in message
    assert "init_process_group" in message
    assert billed == released == 1
    assert took < (1.0 if how == "kill" else TIMEOUT + 3.0)
    assert (two is None) == (how == "kill")


def lost_in_the_sum(rank: int) -> tuple[str, int, int]:
    engine, module, optimizer, loader = wrap()
    if rank == 1:
        optimizer.attach_step_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
    start = weights(module)
    with pytest.raises(RuntimeError) as error:
        for x, y in loader:
            step(module, optimizer, x, y)
    assert np.array_equal(start, weights(module))
    return str(error.value), engine.ledger.steps, optimizer.released_steps


def test_a_step_whose_sum_was_begun_is_billed() -> None:
    (message, billed, released), _ = on_ranks(lost_in_the_sum, answers=1, timeout=TIMEOUT)
    assert "The step was charged, but this rank released nothing of it" in message
    assert (billed, released) == (1, 0)


def absent_from_the_sum(rank: int) -> str:
    """Rank 1 fails when all have agreed to sum, and begins the next pass while rank 0 waits in the sum."""
    _, module, optimizer, loader = wrap()
    message = failed_hook(rank, module, optimizer, loader)
    if rank == 0:
        return message
    with pytest.raises(RuntimeError) as later:
        next(iter(loader))
    return str(later.value)


def test_nothing_else_is_sent_to_a_rank_that_waits_in_the_sum() -> None:
    one, two = on_ranks(absent_from_the_sum, timeout=TIMEOUT)
    assert "The step was charged, but this rank released nothing of it" in one
    assert "the connection between the ranks was lost" in two


def elsewhere(rank: int) -> str:
    """Rank 1 leaves its loop and begins the next pass."""
    _, module, optimizer, loader = wrap()
    with pytest.raises(RuntimeError) as error:
        for _ in range(2):
            for x, y in loader:
                step(module, optimizer, x, y)
                if rank == 1 and optimizer.released:
                    break
    return str(error.value)


def test_ranks_in_different_passes_find_out() -> None:
    one, two = on_ranks(elsewhere)
    assert "logical step 2: rank 1 is at pass 2, step 1, this rank at pass 1, step 2" in one
    assert "pass 2: rank 0 is at pass 1, step 2" in two
