"""CI's workflow is valid, and runs what a developer runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
TEXT = WORKFLOW.read_text(encoding="utf-8")
MAKEFILE = ROOT.joinpath("Makefile").read_text(encoding="utf-8")


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(path),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_keeps_to_the_schema_of_workflows(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is for Python 3.11 and later")
    assert checked(WORKFLOW).returncode == 0, checked(WORKFLOW).stdout
    (tmp_path / "wrong.yml").write_text(TEXT.replace("runs-on:", "run-on:"), encoding="utf-8")
    assert checked(tmp_path / "wrong.yml").returncode == 1


def test_actionlint_finds_nothing() -> None:
    if (actionlint := shutil.which("actionlint")) is None:
        pytest.skip("actionlint is not installed")
    done = subprocess.run([actionlint, str(WORKFLOW)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_its_steps_are_targets_of_make() -> None:
    steps = re.findall(r"- run: (.*)", TEXT)
    targets = [step.split()[1] for step in steps if step.startswith("make ")]
    assert set(targets) == {"test", "quick-tests", "test-lowest", "test-slow", "docs", "release-check"}
    assert {step.split()[0] for step in steps} == {"make", "pip", "dpmi"}, (
        "systems without make install the wheel"
    )
    assert [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE)] == []


def test_every_supported_python_is_tried() -> None:
    named = {*re.findall(r'"(3\.\d+)"', TEXT)}
    supported = re.findall(r"Python :: (3\.\d+)", ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))
    assert named == {*supported}
