"""``make mutants``: plant every fault, and print the test that found it.

``python -m mutants WORD`` plants only the faults with this word in their path or name. ``python -m mutants --audit``
plants those that weaken the promise of a training, and shows how ``dpmi audit engine`` flags each.
"""

from __future__ import annotations

import sys

from . import FAULTS, Fault, Outcome, check_tests, run
from .audits import FLAGGED, audit_all


def main(words: list[str]) -> int:
    """Plant the faults with one of the words in their path or name (all without a word), and print a table.

    Returns:
        The exit code: 1 if a fault survived, or if no fault matches.
    """
    audits, words = "--audit" in words, [word for word in words if word != "--audit"]
    chosen = [f for f in FAULTS if not words or any(word in f"{f.path} {f.name}" for word in words)]
    if not chosen:
        print(f"no fault has {' or '.join(words)} in its path or name", file=sys.stderr)
        return 1
    if audits:
        return _audit([fault for fault in chosen if fault.audited])
    check_tests(chosen)
    print("| file | fault | caught by | s |")
    print("| --- | --- | --- | --- |")
    outcomes = run(chosen, tell=lambda outcome: print(row(outcome), flush=True))
    survivors = [outcome.fault for outcome in outcomes if outcome.caught_by is None]
    print(f"\n{len(outcomes) - len(survivors)} of {len(outcomes)} faults caught")
    for fault in survivors:
        print(
            f"survived: {fault.name} ({fault.path}). Add a test to {' or '.join(fault.tests)}",
            file=sys.stderr,
        )
    return 1 if survivors else 0


def _audit(faults: list[Fault]) -> int:
    print("| file | fault | p | trainings | check | s |")
    print("| --- | --- | --- | --- | --- | --- |")
    flagged = stopped = 0
    for found in audit_all(faults):
        flagged += found.p_value is not None and found.p_value < FLAGGED
        stopped += found.p_value is None
        p = "" if found.p_value is None else f"{found.p_value:.2g}"
        print(
            f"| {found.fault.path} | {found.fault.name} | {p} | {found.trainings} | {found.reason} | "
            f"{found.seconds:.0f} |",
            flush=True,
        )
    print(f"\n{flagged} of {len(faults)} faults flagged, {stopped} stopped the audit with an error")
    return 0 if faults and flagged + stopped == len(faults) else 1


def row(outcome: Outcome) -> str:
    """Return one line of the table, in Markdown."""
    fault = outcome.fault
    return f"| {fault.path} | {fault.name} | {outcome.caught_by or '**survived**'} | {outcome.seconds:.0f} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
