"""The benchmark on a GPU runs on a CPU in small sizes, writes its files, and loses nothing when it is stopped.

Modules: benchmarks/gpu/__main__.py, benchmarks/gpu/measure.py, benchmarks/gpu/models.py, benchmarks/gpu/problems.py,
benchmarks/gpu/table.py, benchmarks/in_turns.py, benchmarks/steps.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.gpu import measure
from benchmarks.gpu.__main__ import _in_time
from benchmarks.gpu.models import GPT2, resnet, vit
from benchmarks.gpu.problems import Problem, problems
from benchmarks.gpu.table import BEGIN, END, into_page, markdown
from benchmarks.in_turns import all_in_turns

ROOT = Path(__file__).parents[1]


def run(folder: Path, device: str, *arguments: str) -> tuple[dict[str, Any], list[str]]:
    """The content of the JSON file, and the lines of the table."""
    command = [sys.executable, "-m", "benchmarks.gpu", str(folder), "--device", device, "--small", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=500)
    assert {path.name for path in folder.iterdir()} == {"gpu.json", "gpu.md"}
    found = json.loads((folder / "gpu.json").read_text())
    table = (folder / "gpu.md").read_text()
    assert table == markdown(found)
    return found, [line for line in table.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.slow
def test_every_problem_is_measured_in_every_mode(device: str, tmp_path: Path) -> None:
    found, lines = run(tmp_path / "new" / "folder", device, "--turns", "1")
    machine = found["machine"]
    assert set(machine) == {"device", "driver", "cuda", "torch", "python", "date"}
    assert machine["torch"] == torch.__version__
    small = problems(small=True)
    rows = found["rows"]
    assert [(row["problem"], row["mode"]) for row in rows] == [
        (p.name, m) for p in small for m in measure.MODES
    ]
    assert [row["failed"] for row in rows] == [None] * len(rows)
    sizes = {p.name: (p.buckets, p.size, p.physical) for p in small}
    for row, line in zip(rows, lines, strict=True):
        buckets, size, physical = sizes[row["problem"]]
        assert row["physical"] <= physical
        if row["mode"] == "stream":
            assert (row["passes"], row["physical"]) == (buckets, size)
        if row["mode"] == "ghost":
            assert row["passes"] == -(-buckets // (physical // size))
        assert row["time"] == pytest.approx(row["seconds"] / row["ordinary_seconds"])
        assert row["time_range"][0] <= row["time"] <= row["time_range"][1]
        assert row["noise_range"] == [row["noise"]] * 2  # one turn
        assert row["turns"] == 1
        on_gpu = [row[name] is not None for name in ("waits", "memory", "peak", "ordinary_peak")]
        assert on_gpu == [device == "cuda"] * 4
        assert f"| {row['passes']} x {row['physical']} | {row['time']:.2f} " in line
        assert f"({row['most_time']:.2f})" in line


def test_a_problem_is_killed_when_its_time_is_over() -> None:
    problem = problems(small=True)[0]
    arguments = argparse.Namespace(device="cpu", small=True, turns=1)
    others = set(multiprocessing.active_children())  # of other tests
    rows = list(_in_time(problem, arguments, 0.0))
    assert [(row.mode, row.failed) for row in rows] == [(mode, measure.OUT_OF_TIME) for mode in measure.MODES]
    assert set(multiprocessing.active_children()) <= others


def test_a_process_that_dies_leaves_a_line_for_every_mode() -> None:
    problem = replace(problems(small=True)[0], name="none of this name")
    arguments = argparse.Namespace(device="cpu", small=True, turns=1)
    rows = list(_in_time(problem, arguments, 60.0))
    assert [(row.mode, row.failed) for row in rows] == [
        (mode, "the process ended with exit code 1") for mode in measure.MODES
    ]


class Broken(nn.Module):
    """Fails on small batches."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) < 5:
            raise self.error
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (ValueError("first line\nsecond line"), "ValueError: first line"),
    ],
)
def test_an_error_in_one_mode_leaves_the_others(error: Exception, reason: str) -> None:
    """Physical batches of 4 fail here, which only the mode of one bucket has."""
    problem = Problem(
        name="broken",
        model=lambda: Broken(error),
        record=(1, 28, 28),
        buckets=4,
        size=4,
        batch_sizes=(8,),
        physical=8,
        most_time=1.0,
        most_memory=1.0,
        share=1.0,
    )
    rows = list(measure.rows(problem, "cpu", seconds=60, turns=1))
    assert [row.mode for row in rows] == list(measure.MODES)
    assert rows[-1].failed == reason
    assert markdown({"machine": dict.fromkeys(MACHINE, "x"), "rows": [vars(rows[-1])]}).splitlines()[-1] == (
        f"| broken | `stream` | {reason} | - | - | - | - | - | - |"
    )


MACHINE = ("device", "driver", "cuda", "torch", "python", "date")


def test_the_table_has_the_figures_limits_and_machine() -> None:
    row = measure.Row(
        "model, 2 x 3",
        "auto",
        1.08,
        1.1,
        passes=2,
        physical=6,
        seconds=1.5,
        ordinary_seconds=1.0,
        batch_size=64,
        turns=3,
        time=1.5,
        time_range=(1.4, 1.6),
        noise=1.01,
        noise_range=(0.99, 1.02),
        memory=1.25,
        peak=5 * 2**30,
        ordinary_peak=4 * 2**30,
        waits=1.5,
    )
    machine = {name: f"<{name}>" for name in MACHINE}
    lines = markdown({"machine": machine, "rows": [vars(row)]}).splitlines()
    assert all(f"<{name}>" in lines[0] for name in MACHINE)
    assert lines[-1] == (
        "| model, 2 x 3 | `auto` | 2 x 6 | 1.50 [1.40, 1.60] (1.08) | 1.01 [0.99, 1.02] | 1.25 (1.1) | 5,120 MiB "
        "| 1.5 | 1.500 s; 1.000 s (64) |"
    )
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_the_page_takes_the_table_between_its_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = into_page(page, "| new |\n")
    assert once == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"
    assert into_page(once, "| new |\n") == once
    for wrong in ("", page + page, f"{END}{BEGIN}", BEGIN):
        with pytest.raises(ValueError, match="the page must hold"):
            into_page(wrong, "")
    into_page((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), "")


@pytest.mark.parametrize(
    ("model", "frozen", "trained"),
    [
        (resnet, 0, 25_557_032),
        (vit, 85_798_656, 1000 * 769 + 24 * 2 * 8 * 768),
        (GPT2, 124_439_808, 24 * 2 * 8 * 768),
    ],
)
def test_models_have_the_published_number_of_parameters(
    model: Callable[[], nn.Module], frozen: int, trained: int
) -> None:
    """Of torchvision's page for ResNet-50 and ViT-B/16 (86,567,656 with its head), and of GPT-2's."""
    with torch.device("meta"):
        parameters = list(model().parameters())
    assert sum(p.numel() for p in parameters if not p.requires_grad) == frozen
    assert sum(p.numel() for p in parameters if p.requires_grad) == trained


def test_the_shares_of_time_are_all_of_it() -> None:
    assert sum(p.share for p in problems(small=False)) == pytest.approx(1.0)
    assert [p.share for p in problems(small=False)] == [p.share for p in problems(small=True)]


def test_runs_take_turns_until_the_time_is_over() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    found = all_in_turns(runs, 2)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert [len(found[name]) for name in "ab"] == [2, 2]
    calls.clear()
    assert len(all_in_turns(runs, 5, warm=False, until=time.perf_counter() - 1)["a"]) == 1
    assert calls == ["a", "b"]
