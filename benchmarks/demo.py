"""Time of the demo in an installed environment: ``dpmi curve`` in an empty folder, as a new process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS = 120.0


def run() -> dict[str, float]:
    """Print and return the wall time of the whole process in seconds, on all cores."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dpmi.cli", "curve", "--out", str(Path(folder) / "demo")]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - started
    print(f"dpmi curve (80 models, 160 attacks): {seconds:.1f} s (limit {LIMIT_SECONDS:.0f} s)")
    return {"dpmi curve, s": seconds}


if __name__ == "__main__":
    run()
