"""Provenance of a result: code version, machine and computing time."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dpmi.privacy.statement import PACKAGES
from dpmi.privacy.statement import versions as installed

#: Another package whose version can change results; PACKAGES lists the packages that an epsilon depends on.
_CLUSTERS = "scikit-learn"


@lru_cache(maxsize=1)
def revision() -> str:
    """Commit of the checkout that dpmi runs from, with "+" if files are changed; empty outside of a checkout."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An installed dpmi may lie inside the checkout of another project, in a virtual environment.
        if not git("ls-files", "--", "__init__.py"):
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(package))
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


@lru_cache(maxsize=1)
def _code() -> dict[str, str]:
    return {
        "revision": revision(),
        **installed(),
        _CLUSTERS: version(_CLUSTERS),
    }


def started(device: torch.device | str = "cpu") -> Callable[[], dict[str, Any]]:
    """Start the clock of a stage; call the returned function at its end to get the provenance record.

    Args:
        device: device of the computation.
    """
    wall, cpu = time.perf_counter(), time.process_time()

    def finished() -> dict[str, Any]:
        kind = torch.device(device)
        name = torch.cuda.get_device_name(kind) if kind.type == "cuda" else platform.machine()
        return {
            **_code(),
            "device": f"{kind.type} ({name})",
            "threads": torch.get_num_threads(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "wall_seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }

    return finished


def told(made: Mapping[str, Any]) -> str:
    """The provenance in one line; equal for all results of the same code on the same kind of machine.

    >>> told({"dpmi": "1.0", "revision": "abc", "python": "3.12", "torch": "2.9", "device": "cpu (x86_64)",
    ...       "threads": 1, "date": "2026-01-01", "wall_seconds": 1.0, "cpu_seconds": 1.0})
    'dpmi 1.0 (abc), python 3.12, torch 2.9, 1 thread of cpu (x86_64)'
    """
    names = ("dpmi", "python", *PACKAGES[1:], _CLUSTERS)
    parts = [f"{name} {made[name]}" for name in names if name in made]
    if made["revision"]:
        parts[0] += f" ({made['revision']})"
    threads = made["threads"]
    return ", ".join([*parts, f"{threads} thread{'s' if threads > 1 else ''} of {made['device']}"])
