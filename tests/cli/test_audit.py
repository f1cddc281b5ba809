"""``dpmi audit``: its table, its JSON, and its exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dpmi.privacy.audit import battery, trainings

from .conftest import Dpmi, check_mistake

OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from dpmi.privacy import Partition, PrivacyEngine

def main():
    x, y = torch.randn(40, 30), torch.arange(40) % 4
    model, engine = nn.Linear(30, 40), PrivacyEngine()
    module, optimizer, loader = engine.make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(x, y)), partition=Partition.by_class(y.numpy()),
        sampling_rate=0.5, noise_multiplier=1.0, max_grad_norm=1.0, steps_per_epoch=10)
    for a, b in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(a), b).backward()
        SPOIL
        optimizer.step()
    print("trained")
    return model, engine

def nothing():
    return 1.0
"""


def write(folder: Path, spoil: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(OWN.replace("SPOIL", spoil), encoding="utf-8")
    return path


def test_the_engine(dpmi: Dpmi, monkeypatch: pytest.MonkeyPatch) -> None:
    short = (trainings.Configuration(strategy="stream", partition="class", steps=3),)
    monkeypatch.setattr(battery, "BATTERY", short)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # in this process
    outcome = dpmi("audit", "engine")
    assert outcome.code == 0
    for part in (
        "training",
        "claimed",
        "at least",
        "ceiling",
        "verdict",
        str(short[0]),
        "add_remove",
        "consistent",
    ):
        assert part in outcome.out
    assert outcome.out.splitlines()[-1].startswith(
        "Nothing contradicts the ledgers of 1 training. This proves no"
    )
    rows = json.loads(dpmi("audit", "engine", "--json").out)
    assert [row["adjacency"] for row in rows] == ["replace", "add_remove"]
    keys = {"configuration", "adjacency", "claimed", "lower_bound", "ceiling", "p_value", "verdict"}
    assert all(set(row) == keys for row in rows)
    assert all(row["lower_bound"] < 1.4 * row["claimed"] for row in rows)


def test_a_training_function(dpmi: Dpmi, tmp_path: Path) -> None:
    target = f"{write(tmp_path)}:main"
    outcome = dpmi("audit", target, "--canaries", 30, "--delta", "1e-3", "--json")
    assert outcome.code == 0
    assert outcome.err == "trained\n"
    rows = json.loads(outcome.out)
    assert [row["configuration"] for row in rows] == [target] * 2
    assert all(row["verdict"] == "consistent" for row in rows)


def test_a_training_function_that_cheats_has_exit_code_1(dpmi: Dpmi, tmp_path: Path) -> None:
    path = write(tmp_path, "vars(optimizer)['noise_multiplier'] = 0.1")
    outcome = dpmi("audit", f"{path}:main", "--canaries", 30)
    assert outcome.code == 1
    assert "violated (p = 0)" in outcome.out
    assert "1 of 1 trainings contradict their ledger: do not rely on its epsilon." in outcome.out


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("motor", [], ["the target is 'motor'; it must be engine, or FILE.py:function"]),
        ("{}:nothing", [], ["nothing returned float, with 0 privacy engines"]),
        ("{}:main", [], ["canaries is 200, but a model of 1240 trained parameters has room for 62"]),
        ("{}:main", ["--delta", "0"], ["delta must be in (0, 1)"]),
        ("{}:main", ["--canaries", "1"], ["canaries must be at least 2, got 1"]),
    ],
)
def test_mistakes(dpmi: Dpmi, tmp_path: Path, target: str, options: list[str], words: list[str]) -> None:
    check_mistake(dpmi("audit", target.format(write(tmp_path)), *options), *words)


def test_an_error_of_the_function_is_one_line(dpmi: Dpmi, tmp_path: Path) -> None:
    path = write(tmp_path, "1 / 0")
    check_mistake(
        dpmi("audit", f"{path}:main", "--canaries", 30), "main raised ZeroDivisionError: division by zero"
    )
