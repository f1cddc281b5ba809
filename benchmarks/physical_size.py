"""The size of a physical batch on a CPU: time in the program, time in the system, and page faults of a step.

``OMP_NUM_THREADS=1 python -m benchmarks.physical_size PROBLEM SIZE...`` takes the number of a problem of
`benchmarks.problems`, and sizes or "auto". Every size has a process of its own, because malloc adapts to what was freed
before. Times are those of the processor, so other programs hardly change them.
"""

from __future__ import annotations

import resource
import sys

from .memory import in_child
from .problems import PROBLEMS
from .steps import private_step

REPEATS = 3


def measured(problem: int, size: int | str) -> tuple[float, float, int]:
    """Return the fewest seconds in the program and in the system, and the page faults, of a logical step."""
    chosen = PROBLEMS[problem]
    step = private_step(chosen.classifier(), chosen.data(), max_physical_batch_size=size)
    step()  # with the dry runs
    found = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_SELF)
        step()
        after = resource.getrusage(resource.RUSAGE_SELF)
        found.append(
            (
                after.ru_utime - before.ru_utime,
                after.ru_stime - before.ru_stime,
                after.ru_minflt - before.ru_minflt,
            )
        )
    return min(found)


def main() -> None:
    """Measure the sizes of the command line."""
    problem, *sizes = sys.argv[1:]
    print(f"| {PROBLEMS[int(problem)].name} | program | system | page faults |")
    print("| --- | --- | --- | --- |")
    for size in sizes:
        program, system, faults = in_child(
            __spec__.name, "measured", int(problem), size if size == "auto" else int(size), trimmed=False
        )
        print(f"| {size} | {program:.2f} s | {system:.2f} s | {faults:,} |", flush=True)


if __name__ == "__main__":
    main()
