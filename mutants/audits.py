"""Plants the audited faults in copies of the packages, and audits the engine of each copy.

The trainings are those of ``dpmi audit engine``; they end at the first that is flagged.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .fault import Fault
from .runner import planted_copy

FLAGGED = 1e-6
"""The p-value below which a fault counts as flagged."""


_PROGRAM = f"""
from dpmi.privacy.audit.battery import BATTERY, examine

if __name__ == "__main__":
    least, verdict = 1.0, ""
    for number, (configuration, finding) in enumerate(examine(BATTERY)):
        if finding.p_value <= least:
            worst = finding.worst
            least = finding.p_value
            verdict = f"{{configuration}}: {{worst.name}} is {{worst.found:.4g}}, not {{worst.claimed:.4g}}"
        if least < {FLAGGED}:
            break
    print(f"{{least:.2g}};{{number + 1}};{{verdict}}")
"""


@dataclass(frozen=True, kw_only=True)
class Audited:
    """The audit of one fault.

    Args:
        fault: the planted fault.
        p_value: of the most unusual check; None if the audit could not be run.
        trainings: number of trainings until the first that was flagged.
        reason: this check, or the last line of output.
        seconds: time in seconds.
    """

    fault: Fault
    p_value: float | None
    trainings: int
    reason: str
    seconds: float


def audit_all(faults: Sequence[Fault], *, workers: int | None = None) -> Iterator[Audited]:
    """Plant every fault in its own copy and run ``dpmi audit engine`` there; yield the outcomes in order."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        yield from pool.map(_audit, faults)


def _audit(fault: Fault) -> Audited:
    start = time.monotonic()
    with planted_copy(fault) as folder:
        program = folder / "audit_the_copy.py"  # a file, because the ranks start from it too
        program.write_text(_PROGRAM, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", program],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(folder),
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    seconds = time.monotonic() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Audited(fault=fault, p_value=None, trainings=0, reason=f"did not run: {last}", seconds=seconds)
    p_value, trainings, reason = done.stdout.strip().splitlines()[-1].split(";", 2)
    return Audited(
        fault=fault, p_value=float(p_value), trainings=int(trainings), reason=reason, seconds=seconds
    )
