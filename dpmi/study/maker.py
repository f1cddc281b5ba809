"""Who made a result: the code, the machine and the time that it took."""

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

#: A distribution whose version can change a number, as can those that an epsilon depends on.
_CLUSTERS = "scikit-learn"


@lru_cache(maxsize=1)
def revision() -> str:
    """The commit of the checkout that dpmi runs from, with "+" where files differ from it; empty where it is none."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An installed package may lie in a virtual environment inside the checkout of another project.
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
    """Begin to take the time of a stage; what is returned tells at its end who made its result.

    Args:
        device: that it computes on.
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
    """One line for a table: the same for all results of the same code on the same kind of machine.

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
