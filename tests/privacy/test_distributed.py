"""Several processes train the model that one would, or all of them say what went wrong."""

from __future__ import annotations

import math
import multiprocessing
import operator
import os
import queue
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import NonFiniteGradientError, Partition, PrivacyEngine
from dpmi.privacy.distributed import Ranks
from dpmi.privacy.noise import NoiseMode, NoiseSource
from dpmi.privacy.rehearsal import Rehearsal

from .reference import Run, private_run
from .test_update import problem

ROOT = Path(__file__).parents[2]
LIMIT = 60.0
TIMEOUT = 4.0
"""Of the process group, where a rank is lost on purpose."""

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


def wrap(model: nn.Module | None = None, **options: Any) -> tuple[PrivacyEngine, Any, Any, Any]:
    """Six buckets of four records, all drawn at every step, in physical batches of four."""
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


def step(module: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(module(x), y).backward()
    optimizer.step()


# The same model as one process


def updates(run: Run) -> tuple[np.ndarray, list[list[int]], int]:
    return weights(run.model), [sorted(drawn) for drawn in run.steps], run.engine.ledger.steps


def trained(rank: int, reduction: str, options: dict[str, Any]) -> tuple[np.ndarray, list[list[int]], int]:
    del rank
    model, x, y, partition = problem("linear")
    return updates(private_run(model, x, y, partition, reduction=reduction, epochs=3, **options))


@pytest.mark.parametrize(
    ("mode", "reduction", "max_physical_batch_size", "most"),
    [
        ("stream", "mean", 9, None),
        ("hooks", "mean", 9, None),
        ("hooks", "sum", 512, None),
        ("ghost", "mean", 9, None),
        ("hooks", "mean", 9, 3),
    ],
)
def test_two_ranks_train_the_model_that_one_process_does(
    mode: str, reduction: str, max_physical_batch_size: int, most: int | None
) -> None:
    options: dict[str, Any] = {
        "max_records_per_bucket": most,
        "grad_sample_mode": mode,
        "max_physical_batch_size": max_physical_batch_size,
        "sampling_rate": 0.3,
        "noise_multiplier": 1.0,
        "seed": 3,
    }
    expected, drawn, billed = trained(0, reduction, options)
    one, two = on_ranks(trained, reduction, options)
    assert np.array_equal(one[0], two[0]), "all ranks have the same parameters"
    np.testing.assert_allclose(one[0], expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    shares = list(zip(one[1], two[1], strict=True))
    assert [sorted(a + b) for a, b in shares] == drawn, "every drawn record is one rank's"
    assert one[2] == two[2] == billed == 9
    assert any(a and b for a, b in shares)
    assert any(a and not b for a, b in shares), "otherwise empty shares were not tested"
    assert any(not a and not b for a, b in shares), "nor were empty draws"


def without_a_seed(rank: int, secure: bool) -> tuple[np.ndarray, list[list[int]], list[float], Any]:
    torch.default_generator.manual_seed(0)
    model = nn.Linear(4, 6)
    engine_run = private_run(
        model,
        X,
        Y,
        Partition.by_class(Y.numpy()),
        epochs=8,
        noise_multiplier=1.0,
        seed=None,
        secure_mode=secure,
    )
    noise = torch.zeros(2)
    engine_run.optimizer._source.fill_(noise, 1.0)
    return weights(model), engine_run.steps, noise.tolist(), engine_run.engine.account.noise


@pytest.mark.parametrize("secure", [False, True])
def test_without_a_seed_the_ranks_share_their_draws_and_not_their_noise(secure: bool) -> None:
    one, two = on_ranks(without_a_seed, secure)
    assert np.array_equal(one[0], two[0])
    for mine, others in zip(one[1], two[1], strict=True):
        assert not set(mine) & set(others)
        assert abs(len(mine) - len(others)) in (0, 4), "equal buckets, dealt in turns"
    assert one[2] != two[2]
    assert one[3] == two[3] == (NoiseMode.SECURE if secure else NoiseMode.ORDINARY)


def unlike(rank: int) -> tuple[list[np.ndarray], np.ndarray]:
    torch.default_generator.manual_seed(rank)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last), nn.Flatten(), nn.Linear(16, 6)
    )
    model[2].requires_grad_(False)
    model.register_buffer("scale", torch.tensor(float(rank)))
    model.register_buffer("mask", torch.tensor([rank > 0, True]))
    wrap(model, data_loader=DataLoader(TensorDataset(torch.zeros(N, 1, 4, 4), Y)))
    torch.default_generator.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 6))
    return [p.detach().numpy() for p in model.parameters()] + [b.numpy() for b in model.buffers()], weights(
        first
    )


def test_all_ranks_start_from_the_parameters_and_buffers_of_the_first() -> None:
    one, two = on_ranks(unlike)
    for mine, others in zip(one[0], two[0], strict=True):
        assert np.array_equal(mine, others)
    assert np.array_equal(np.concatenate([p.ravel() for p in two[0][:-2]]), two[1])
    assert two[0][-2] == 0.0
    assert two[0][-1].tolist() == [False, True]


def interrupted(rank: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    _, module, optimizer, loader = wrap(
        data_loader=DataLoader(TensorDataset(X, Y), num_workers=1, multiprocessing_context="fork"),
        sampling_rate=0.9,
        max_physical_batch_size=4
        - rank,  # so that the workers of one run further ahead than those of the other
        steps_per_epoch=20,
        grad_sample_mode="stream",
        seed=0,
    )
    seen: list[tuple[int, ...]] = []
    for stop in (2, 6):
        for x, y in loader:
            seen.append((optimizer.released_steps, *y.tolist()))
            step(module, optimizer, x, y)
            if optimizer.released_steps == stop:
                break
    return weights(module), seen


def test_loops_that_are_left_alike_go_on_with_the_same_draws() -> None:
    one, two = on_ranks(interrupted)
    assert np.array_equal(one[0], two[0])
    for at in range(6):
        mine, others = ({y for s, *ys in r[1] if s == at for y in ys} for r in (one, two))
        assert mine
        assert others
        assert not mine & others


def resumed(rank: int, folder: str, how: str) -> Any:
    """Four steps, which are saved after the first; or the three that are left, by ranks that load it."""
    path = Path(folder, "checkpoint")
    engine, module, optimizer, loader = wrap(steps_per_epoch=4, sampling_rate=0.9, seed=0)
    if how != "from the start" and (how == "resumed" or rank == 0):
        engine.load_checkpoint(path)
    for x, y in loader:
        step(module, optimizer, x, y)
        if how == "from the start" and optimizer.released_steps == 1 and optimizer.released:
            engine.save_checkpoint(path)
    return weights(module), engine.ledger.steps


def test_ranks_go_on_together_from_the_checkpoint_that_the_first_one_saved(tmp_path: Path) -> None:
    whole = on_ranks(resumed, str(tmp_path), "from the start")
    for found in on_ranks(resumed, str(tmp_path), "resumed"):
        assert np.array_equal(found[0], whole[0][0])
        assert found[1] == whole[0][1] == 4
    for error in on_ranks(resumed, str(tmp_path), "one alone"):
        assert "only some went on from a checkpoint" in str(error)


def several(rank: int, problem_on: int, mode: str) -> tuple[np.ndarray, int]:
    class Troubled(Rehearsal):
        def take(self, *args: Any) -> None:
            super().take(*args)
            self.problem = "records are coupled" if rank == problem_on else None

    import dpmi.privacy.loader

    dpmi.privacy.loader.Rehearsal = Troubled  # type: ignore[misc]
    _, module, optimizer, loader = wrap(max_physical_batch_size=12, grad_sample_mode=mode, steps_per_epoch=1)
    most = 0
    for x, y in loader:
        if not optimizer.rehearsing:
            most = max(most, len(set(y.tolist())))
        step(module, optimizer, x, y)
    return weights(module), most


def test_what_one_rank_finds_in_the_rehearsal_holds_for_all() -> None:
    fine = on_ranks(several, -1, "hooks")
    assert [most for _, most in fine] == [3, 3]
    alone = on_ranks(several, 1, "auto")
    assert [most for _, most in alone] == [1, 1]
    assert np.array_equal(alone[0][0], alone[1][0])
    for error in on_ranks(several, 1, "hooks"):
        assert isinstance(error, RuntimeError)
        assert "nothing was released. Use grad_sample_mode='stream'" in str(error)


# Who takes what


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(2, 5), st.randoms(use_true_random=False))
def test_shares_are_disjoint_complete_and_balanced(sizes: list[int], ranks: int, random: Any) -> None:
    drawn = np.array(sorted(random.sample(range(1000), len(sizes))), dtype=np.int64)
    weight = dict(zip(drawn.tolist(), sizes, strict=True))
    shares = [Ranks(r, ranks).share(drawn, np.array(sizes, dtype=np.int64)).tolist() for r in range(ranks)]
    assert sorted(b for share in shares for b in share) == drawn.tolist()
    loads = [sum(weight[b] for b in share) for share in shares]
    ideal = sum(sizes) / ranks
    # Graham (1969): whoever ends with most took its last bucket when it had least.
    assert max(loads) <= ideal + max(sizes, default=0)
    if sizes and max(loads) > max(sizes):
        assert max(loads) - min(loads) <= min(weight[b] for b in shares[int(np.argmax(loads))])


def test_one_process_takes_everything_and_waits_for_nobody() -> None:
    drawn = np.arange(5)
    assert Ranks.current(torch.device("cpu")).share(drawn, drawn + 1) is drawn
    engine, module, optimizer, loader = wrap()
    for x, y in loader:
        step(module, optimizer, x, y)
    assert engine.ledger.steps == 3


def expected(rank: int) -> int:
    return operator.length_hint(wrap(steps_per_epoch=10)[3])


def test_the_expected_length_is_that_of_one_rank() -> None:
    assert expected(0) == 60
    assert on_ranks(expected) == [30, 30]


def test_sources_that_follow_one_key_draw_alike_and_keep_their_own_noise() -> None:
    for secure in (False, True):
        sources = [NoiseSource.of(None, secure=secure, device=torch.device("cpu")) for _ in range(2)]
        key = sources[0].key()
        assert len(key) >= 32
        assert not torch.equal(key, sources[1].key())
        for source in sources:
            source.follow(key)
        draws = [torch.cat([source.uniform(5000), source.uniform(5000)]) for source in sources]
        assert torch.equal(*draws)
        # Uniform, by the Kolmogorov-Smirnov bound at 1e-6.
        ordered = draws[0].sort().values
        assert float((ordered - (torch.arange(10_000) + 0.5) / 10_000).abs().max()) < 2.7 / 100
        noise = [torch.zeros(4), torch.zeros(4)]
        for source, flat in zip(sources, noise, strict=True):
            source.fill_(flat, 1.0)
        assert not torch.equal(*noise)


# When ranks do not agree


def disagreeing(rank: int, options: list[dict[str, Any]]) -> None:
    models = {"model": lambda: nn.Linear(4, 6), "other": lambda: nn.Linear(4, 6, bias=False)}
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
    """A loop that swallows errors and goes on in the same pass."""
    x = X.clone()
    x[Y == 5] = math.nan
    engine, module, optimizer, loader = wrap(data_loader=DataLoader(TensorDataset(x, Y)))
    errors = []
    for inputs, labels in loader:
        try:
            step(module, optimizer, inputs, labels)
        except RuntimeError as error:
            errors.append(str(error))
    return errors, engine.ledger.steps


def test_a_pass_in_which_a_rank_failed_is_over_even_for_a_loop_that_goes_on() -> None:
    for errors, billed in on_ranks(going_on):
        assert len(errors) >= 3
        assert all("the pass ended for all ranks" in e or "bucket 5" in e for e in errors[1:])
        assert billed == 0


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
        with pytest.raises(RuntimeError, match="lost one another earlier"):
            next(iter(loader))
        return str(error), engine.ledger.steps, optimizer.released_steps, took
    return "", engine.ledger.steps, optimizer.released_steps, 0.0


@pytest.mark.parametrize(("how", "answers"), [("kill", 1), ("break", 2)])
def test_a_rank_that_is_gone_does_not_keep_the_others_waiting(how: str, answers: int) -> None:
    one, two = on_ranks(lost, how, answers=answers, timeout=TIMEOUT)
    message, billed, released, took = one
    assert "logical step 2: another rank died, left its loop, or took longer than" in message
    assert "Nothing of it was released or billed" in message
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
    assert "The step was billed, and nothing of it was released by this rank" in message
    assert (billed, released) == (1, 0)


def absent_from_the_sum(rank: int) -> str:
    """Rank 1 fails when all have agreed to sum, and begins the next pass while rank 0 waits in the sum."""
    _, module, optimizer, loader = wrap()

    def fail(_: Any) -> None:
        raise OSError("disk full")

    if rank == 1:
        optimizer.attach_step_hook(fail)
    with pytest.raises(OSError if rank else RuntimeError) as error:
        for x, y in loader:
            step(module, optimizer, x, y)
    if rank == 0:
        return str(error.value)
    with pytest.raises(RuntimeError) as later:
        next(iter(loader))
    return str(later.value)


def test_nothing_else_is_sent_to_a_rank_that_waits_in_the_sum() -> None:
    one, two = on_ranks(absent_from_the_sum, timeout=TIMEOUT)
    assert "The step was billed, and nothing of it was released by this rank" in one
    assert "lost one another earlier" in two


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


# Modules that are distributed already


def sharded(rank: int, how: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    if how == "fully_shard":
        fully_shard(model[0], mesh=init_device_mesh("cpu", (2,)))
    else:
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    wrap(model)


@pytest.mark.parametrize("how", ["fully_shard", "FullyShardedDataParallel"])
def test_sharded_modules_are_refused_with_the_way_out(how: str) -> None:
    for error in on_ranks(sharded, how):
        assert isinstance(error, ValueError)
        assert "no process has the whole gradient of a bucket" in str(error)
        assert "torchrun" in str(error)


def wrapped(rank: int) -> None:
    wrap(nn.parallel.DistributedDataParallel(nn.Linear(4, 6)))


def test_the_wrapper_of_torch_is_refused() -> None:
    for error in on_ranks(wrapped):
        assert "module.module" in str(error)


# The page about it


def test_the_script_of_the_documentation_runs_under_torchrun(tmp_path: Path) -> None:
    text = ROOT.joinpath("docs/distributed.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    (script,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    path = tmp_path / "train.py"
    path.write_text(script, encoding="utf-8")
    (command,) = re.findall(r"^torchrun (.*) train.py$", text, flags=re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command.split(), str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epsilon") == 1, "rank 0 speaks for all"
