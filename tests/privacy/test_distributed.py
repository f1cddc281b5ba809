"""Several processes train the model that one would."""

from __future__ import annotations

import operator
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import AdaptiveClipping, Partition
from dpmi.privacy.distributed import Ranks
from dpmi.privacy.noise import NoiseMode, NoiseSource

from .ranks import LIMIT, N, X, Y, on_ranks, weights, wrap
from .reference import Run, private_run, step
from .test_update import problem

ROOT = Path(__file__).parents[2]

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


def adapted(rank: int) -> tuple[np.ndarray, float]:
    del rank
    model, x, y, partition = problem("linear")
    options: dict[str, Any] = {
        "noise_multiplier": 1.0,
        "seed": 3,
        "sampling_rate": 0.5,
        "max_physical_batch_size": 9,
    }
    run = private_run(model, x, y, partition, epochs=3, clipping=AdaptiveClipping(), **options)
    return weights(run.model), run.optimizer.max_grad_norm


def test_two_ranks_adapt_the_norm_as_one_process_does() -> None:
    expected, norm = adapted(0)
    one, two = on_ranks(adapted)
    assert one[1] == two[1] == pytest.approx(norm, rel=1e-6)
    assert norm != 0.3
    np.testing.assert_allclose(one[0], expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert np.array_equal(one[0], two[0])


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
        assert "only some ranks resumed from a checkpoint" in str(error)


def several(rank: int, problem_on: int, mode: str) -> tuple[np.ndarray, int]:
    _, module, optimizer, criterion, loader = wrap(
        criterion=nn.CrossEntropyLoss(), max_physical_batch_size=12, grad_sample_mode=mode, steps_per_epoch=1
    )
    if rank == problem_on:
        loader._dry.note("records are coupled")
    most = 0
    for x, y in loader:
        if not optimizer.rehearsing:
            most = max(most, len(y) // 4)
        step(module, optimizer, x, y, criterion)
    return weights(module), most


def test_what_one_rank_finds_in_the_dry_runs_holds_for_all() -> None:
    fine = on_ranks(several, -1, "hooks")
    assert [most for _, most in fine] == [3, 3]
    alone = on_ranks(several, 1, "auto")
    assert [most for _, most in alone] == [1, 1]
    assert np.array_equal(alone[0][0], alone[1][0])
    for error in on_ranks(several, 1, "hooks"):
        assert isinstance(error, RuntimeError)
        assert "nothing was released. Use grad_sample_mode='stream' without a criterion" in str(error)


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
        assert not torch.equal(draws[0][:5000], draws[0][5000:])
        late = NoiseSource.of(None, secure=secure, device=torch.device("cpu"))
        late.follow(sources[1].key())
        assert torch.equal(late.uniform(5), sources[0].uniform(5)), "a key says how far the draws are, too"
        # Uniform, by the Kolmogorov-Smirnov bound at 1e-6.
        ordered = draws[0].sort().values
        assert float((ordered - (torch.arange(10_000) + 0.5) / 10_000).abs().max()) < 2.7 / 100
        noise = [torch.zeros(4), torch.zeros(4)]
        for source, flat in zip(sources, noise, strict=True):
            source.fill_(flat, 1.0)
        assert not torch.equal(*noise)


# Modules that are distributed already


def sharded(rank: int) -> None:
    del rank
    wrap(FullyShardedDataParallel(nn.Sequential(nn.Linear(4, 6)), device_id=torch.device("cpu")))


def test_flat_sharded_parameters_are_refused_with_the_way_out() -> None:
    for error in on_ranks(sharded):
        assert isinstance(error, ValueError)
        assert "FSDP1" in str(error)
        assert "fully_shard" in str(error)
        assert "torchrun" in str(error)


def wrapped(rank: int) -> None:
    wrap(nn.parallel.DistributedDataParallel(nn.Linear(4, 6)))


def test_the_wrapper_of_torch_is_refused() -> None:
    for error in on_ranks(wrapped):
        assert "module.module" in str(error)


# The page about it


@pytest.mark.slow
def test_the_script_of_the_documentation_runs_under_torchrun(tmp_path: Path) -> None:
    text = ROOT.joinpath("docs/distributed.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
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
