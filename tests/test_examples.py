"""The examples are run as they stand, and what they promise is what the accountant says of their steps.

Modules: examples/lightning_module.py, examples/plain_loop.py.
"""

from __future__ import annotations

import ast
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from accountants import epsilon
from dpmi.privacy import PrivacyEngine

EXAMPLES = sorted(Path(__file__).parents[1].joinpath("examples").glob("*.py"))
STEPS, DELTA = 100, 1e-3


@dataclass(frozen=True)
class Result:
    accuracy: float
    engine: PrivacyEngine
    printed: str


def run(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Result:
    """Call an example's main() as a user would, from an empty folder."""
    (path,) = (path for path in EXAMPLES if path.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(folder)
    accuracy, engine = module.main()
    assert list(folder.iterdir()) == [], "an example leaves nothing behind"
    return Result(accuracy, engine, capsys.readouterr().out)


def check_promise(result: Result, *, unit: str, sampling_rate: float) -> None:
    """One hundred equal steps, a finite epsilon that is the accountant's, and the statement of it."""
    ((mechanism, steps),) = result.engine.ledger.runs
    assert steps == result.engine.ledger.steps == STEPS
    assert mechanism.sampling_rate == sampling_rate
    found = result.engine.guarantee(DELTA)
    expected = epsilon(
        sampling_rate=sampling_rate,
        noise_multiplier=mechanism.noise_multiplier,
        steps=STEPS,
        delta=DELTA,
        unit=unit,
    )
    assert found.unit == unit
    assert found.is_guarantee
    assert math.isfinite(found.epsilon)
    assert found.epsilon == pytest.approx(expected.epsilon, rel=1e-9)
    assert result.engine.statement(DELTA).text() in result.printed


def test_lightning_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("lightning", reason="the extra `lightning` is not installed")
    result = run("lightning_module", capsys, monkeypatch, tmp_path)
    check_promise(result, unit="patient", sampling_rate=0.1)
    assert result.engine.ledger.runs[0][0].noise_multiplier == 2.0
    assert result.engine.guarantee(DELTA).epsilon == pytest.approx(3.119, abs=2e-3)
    assert result.engine.plan.partition.num_buckets == 350
    assert result.accuracy > 0.9, "63 % of the records are benign"


def test_plain_loop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = run("plain_loop", capsys, monkeypatch, tmp_path)
    check_promise(result, unit="subclass", sampling_rate=0.2)
    assert 7.9 < result.engine.guarantee(DELTA).epsilon <= 8.0, "the target, and not above it"
    assert result.printed.splitlines()[1].startswith("Privacy statement, conditional on the partition.")
    assert result.accuracy > 0.55, "guessing has 0.1; without a seed the runs differ by a few hundredths"


def test_every_example_is_run() -> None:
    assert [path.stem for path in EXAMPLES] == ["lightning_module", "plain_loop"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    lines = {
        number
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and line.strip()[0] != "#"
    }
    for node in ast.walk(ast.parse(source)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and (docstring or isinstance(node, ast.Import | ast.ImportFrom)):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    assert len(lines) < 40, "without imports, docstrings and comments"
