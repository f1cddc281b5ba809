"""``make test-gpu`` collects its tests with torch, torchvision and the light libraries alone.

Modules: tests/privacy/test_on_device.py, tests/attacks/test_on_device.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("accelerate", "datasets", "lightning", "peft", "ray", "transformers", "safetensors"),
    *("art", "efficientnet_lite_pytorch", "kymatio", "onnx", "onnxruntime"),
    *("ipykernel", "mypy", "nbclient", "nbformat"),
)
#: Python then finds no such module: https://docs.python.org/3/reference/import.html#the-module-cache
BLOCK = "import sys; sys.modules.update(dict.fromkeys({names}))"


def files_of_make() -> list[str]:
    """The test files that the command of the Makefile finds."""
    found = re.search(r"^GPU_TESTS = \$\(shell (.*)\)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert found is not None
    answer = subprocess.run(found.group(1), shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.split()


def test_no_test_of_a_gpu_needs_an_extra(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(names=HEAVY))
    files = files_of_make()
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--collect-only",
            "-p",
            "no:cacheprovider",
            "-m",
            "gpu",
            *files,
        ],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, (answer.stdout + answer.stderr)[-3000:]
    collected = {line.partition("::")[0] for line in answer.stdout.splitlines() if "::" in line}
    assert collected == set(files)
    wanted = {"tests/privacy/test_update.py", "tests/privacy/test_on_device.py", "tests/study/test_device.py"}
    assert wanted <= collected


def test_every_file_with_a_test_of_a_gpu_is_found() -> None:
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("tests/**/*.py")
        if re.search(r"\bmark\.gpu\b", path.read_text(encoding="utf-8"))
    }
    assert set(files_of_make()) == marked
