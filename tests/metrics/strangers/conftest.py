"""The files of the strangers, which are no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Name of each stranger -> its file below the data root.
FILES = {
    "faceres": "evaluators/faceres-deep.json",
    "sface": "evaluators/face_recognition_sface_2021dec_int8bq.onnx",
}


def file_of(name: str) -> Path:
    """The file of a stranger; a test is skipped where it or its package is not installed."""
    root = os.environ.get("DPMI_DATA")
    if not root:
        pytest.skip("DPMI_DATA is not set: this test reads the files of the strangers")
    if name == "sface":
        for package in ("onnx", "onnxruntime"):
            pytest.importorskip(package, reason="the extra `strangers` is not installed")
    path = Path(root) / FILES[name]
    if not path.exists():
        pytest.skip(f"{path.name} is not installed: docs/attacks.md says how to get it")
    return path
