"""The table against peers: all steps are those of a plain loop, and others are refused.

Modules: benchmarks/in_turns.py, benchmarks/peers/compare.py, benchmarks/peers/environments.py,
benchmarks/peers/gpt.py, benchmarks/peers/jax_networks.py, benchmarks/peers/jax_worker.py,
benchmarks/peers/padded_vmap.py, benchmarks/peers/pfl_worker.py, benchmarks/peers/protocol.py,
benchmarks/peers/rows.py, benchmarks/peers/ways.py, benchmarks/steps.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.in_turns import between
from benchmarks.peers.__main__ import main, table
from benchmarks.peers.compare import Comparison, comparisons, difference
from benchmarks.peers.environments import VARIABLE, NotInstalled, python_of
from benchmarks.peers.gpt import Gpt
from benchmarks.peers.protocol import Worker, WorkerEnded
from benchmarks.peers.rows import JAX, OPACUS, ORDINARY, PEERS, PFL, ROWS, VMAP, Row, zipf
from benchmarks.peers.ways import RATE, ordinary, ours, peer

EQUAL, RAGGED = np.full(6, 4), np.array([5, 1, 3, 1, 2, 4])


def _gpt() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gpt(words=1000, length=64, width=16, layers=2, heads=4)


def _small(row: Row, sizes: np.ndarray, norm: float) -> Row:
    """The row with few users, of whom some are clipped; their records span batches, and batches span users."""
    return replace(
        row,
        sizes=sizes,
        max_grad_norm=norm,
        private_batch=8,
        record_batch=3,
        users_at_once=2,
        batch_sizes=(4, 8),
        first={},
        most_time=None,
        least_speed={},
    )


SMALL = {
    "equal": _small(ROWS["equal"], EQUAL, 1.0),
    "ragged": _small(ROWS["ragged"], RAGGED, 1.0),
    "tiny": _small(ROWS["tiny"], np.ones(6, int), 2.0),
    "transformer": _small(replace(ROWS["transformer"], model=_gpt), RAGGED, 0.35),
    "head": _small(ROWS["head"], RAGGED, 5.0),
}


def _plain_loop(row: Row) -> dict[str, np.ndarray]:
    """Weights after a step of one user after the other, in float64."""
    inputs, targets, partition = row.data(len(row.sizes))
    model = row.model().double()
    names = [name for name, _ in model.named_parameters()]
    if inputs.is_floating_point():
        inputs = inputs.double()
    total, norms = dict.fromkeys(names, 0.0), []
    for user in range(len(row.sizes)):
        mine = torch.as_tensor(partition.bucket_of == user)
        loss = F.cross_entropy(model(inputs[mine]), targets[mine])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(sum(float((g**2).sum()) for g in gradients) ** 0.5)
        for name, gradient in zip(names, gradients, strict=True):
            total[name] += min(1.0, row.max_grad_norm / norms[-1]) * gradient.numpy()
    assert min(norms) < row.max_grad_norm < max(norms), norms
    return {
        name: p.detach().numpy() - RATE * total[name] / len(norms) for name, p in model.named_parameters()
    }


@pytest.mark.parametrize("name", SMALL)
def test_dpmi_takes_the_step_of_a_plain_loop(name: str) -> None:
    row = SMALL[name]
    way = ours(row, row.data(len(row.sizes)))
    way.step()
    assert difference(row, way.weights(), _plain_loop(row)) < 1e-4


@pytest.mark.parametrize("who", [OPACUS, VMAP, JAX, PFL])
@pytest.mark.parametrize("name", SMALL)
def test_a_peer_takes_the_step_of_a_plain_loop(name: str, who: str) -> None:
    row = SMALL[name]
    try:
        with peer(who, row, row.data(len(row.sizes))) as way:
            assert way.step() > 0
            assert difference(row, way.weights(), _plain_loop(row)) < 1e-4
            way.step()
            assert difference(row, way.weights(), _plain_loop(row)) > 0.1  # the next step is another one
    except NotInstalled as error:
        pytest.skip(str(error))


def test_non_private_training_takes_one_step_per_batch() -> None:
    row = SMALL["head"]
    inputs, targets, _ = data = row.data(len(row.sizes))
    way = ordinary(row, data, batch_size=len(inputs))
    way.step()
    model = row.model().double()
    F.cross_entropy(model(inputs.double()), targets).backward()
    after = {
        name: (p - RATE * p.grad).detach().numpy()  # type: ignore[operator]
        for name, p in model.named_parameters()
    }
    assert difference(row, way.weights(), after) < 1e-4


def test_torch_peers_are_timed_beside_dpmi() -> None:
    row = replace(SMALL["ragged"], peers=(ORDINARY, OPACUS, VMAP), first={OPACUS: 4})
    found = list(comparisons(row, seconds=0.0))
    assert [(one.peer, one.users, one.refused) for one in found] == [
        (ORDINARY, 6, ""),
        (OPACUS, 4, ""),
        (VMAP, 6, ""),
    ]
    assert found[0].batch_size in row.batch_sizes
    for one in found:
        assert len(one.rounds) == 1
        assert min(one.rounds[0]) > 0
    assert all(one.difference is not None and one.difference < 1e-4 for one in found[1:])


def test_a_peer_with_another_step_is_not_timed() -> None:
    def random() -> nn.Module:
        return nn.Sequential(SMALL["head"].model(), nn.Dropout(0.5))

    (found,) = comparisons(replace(SMALL["head"], model=random, peers=(OPACUS,)), seconds=0.0)
    assert found.rounds == ()
    assert found.difference is not None
    assert found.difference > SMALL["head"].tolerance
    assert "differs from dpmi's" in found.refused


def test_one_per_cent_of_the_clipping_norm_is_another_step() -> None:
    row = SMALL["equal"]
    after = []
    for norm in (row.max_grad_norm, 1.01 * row.max_grad_norm):
        way = ours(replace(row, max_grad_norm=norm), row.data(len(row.sizes)))
        way.step()
        after.append(way.weights())
    assert difference(row, *after) > row.tolerance
    assert difference(row, {}, after[0]) == float("inf")


@pytest.mark.parametrize("who", [JAX, PFL])
def test_a_peer_that_is_not_installed_is_not_timed(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (found,) = comparisons(replace(SMALL["head"], peers=(who,)), seconds=0.0)
    assert found.refused == f"{who} is not installed: run `python -m benchmarks.peers --install`"
    with pytest.raises(NotInstalled):
        python_of(who)


def test_a_worker_that_ends_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkerEnded, match="ended with status 1"):
        Worker(Path(sys.executable), "no_such_module", tmp_path, settings={}, data={}, weights={})


def test_ratios_are_medians_of_rounds_and_noise_is_the_largest() -> None:
    rounds = ((1.0, 6.0, 1.0), (1.0, 10.0, 1.5), (2.0, 6.0, 2.0))
    one = Comparison("row", OPACUS, 3, 4, limit=6.0, rounds=rounds)
    assert one.ratio == 6.0  # of 6, 8 and 3
    assert one.noise == pytest.approx(0.5)
    assert one.met
    assert not replace(one, limit=6.1).met
    without = replace(one, peer=ORDINARY, limit=0.15)
    assert without.ratio == pytest.approx(1 / 6)
    assert not without.met
    assert replace(without, limit=None).met
    (cell,) = {text.strip() for text in table([without]).splitlines()[-1].split("|")} - {"", "row"}
    assert cell == "0.167 (0.15: missed) ± 50%, 3 rounds, 3 users"


def test_a_step_runs_before_and_after_the_other() -> None:
    order: list[str] = []

    def timed(name: str) -> Iterator[float]:
        for seconds in range(1, 9):
            order.append(name)
            yield float(seconds)

    one, other = timed("one"), timed("other")
    assert between(lambda: next(one), lambda: next(other), seconds=0.0) == [(1.0, 1.0, 2.0)]
    assert order == ["one", "other", "one"]


def test_the_command_writes_figures_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setitem(ROWS, "head", replace(SMALL["head"], peers=(ORDINARY, VMAP)))
    monkeypatch.setitem(ROWS, "tiny", replace(SMALL["tiny"], peers=(OPACUS,)))
    file = tmp_path / "peers.json"
    assert main([str(file), "--only", "head", "--only", "tiny", "--seconds", "0"]) == 0
    written = json.loads(file.read_text())
    figures = {(one["row"], one["peer"]): one["ratio"] for one in written["comparisons"]}
    lines = (tmp_path / "peers.md").read_text().splitlines()
    for (row, who), ratio in figures.items():
        (line,) = (line for line in lines if line.startswith(f"| {row} |"))
        assert line.split("|")[2 + PEERS.index(who)].strip().startswith(f"{ratio:.3g} ±")
    assert "\n".join(lines) in capsys.readouterr().out
    monkeypatch.setitem(ROWS, "head", replace(SMALL["head"], peers=(JAX,)))
    assert main(["--only", "head"]) == 1
    assert "| refused |" in capsys.readouterr().out


def test_sizes_of_zipf_users() -> None:
    sizes = zipf(40_000, 200)
    assert (sizes.min(), sizes.max(), sizes[0]) == (1, 200, 200)
    harmonic = (1 / np.arange(1, 201)).sum()
    assert sizes.mean() == pytest.approx(200 / harmonic, rel=0.03)
    assert (sizes == 1).mean() == pytest.approx(1 / harmonic, rel=0.05)


@pytest.mark.parametrize("name", ROWS)
def test_rows_divide_into_calls_of_jax(name: str) -> None:
    row = ROWS[name]
    assert JAX not in row.peers or row.users(JAX) % row.users_at_once == 0
    assert set(row.first) <= set(PEERS)
    assert set(row.least_speed) <= set(row.peers)
    assert all(0 < users <= len(row.sizes) for users in row.first.values())
