"""``make mutants``: plant every fault, and print the test that found it.

``python -m mutants WORD`` plants only the faults with this word in their path or name.
"""

from __future__ import annotations

import sys

from . import FAULTS, Outcome, check_tests, run


def main(words: list[str]) -> int:
    """Plant the faults with one of the words in their path or name (all without a word), and print a table.

    Returns:
        The exit code: 1 if a fault survived, or if no fault matches.
    """
    chosen = [f for f in FAULTS if not words or any(word in f"{f.path} {f.name}" for word in words)]
    if not chosen:
        print(f"no fault has {' or '.join(words)} in its path or name", file=sys.stderr)
        return 1
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


def row(outcome: Outcome) -> str:
    """Return one line of the table, in Markdown."""
    fault = outcome.fault
    return f"| {fault.path} | {fault.name} | {outcome.caught_by or '**survived**'} | {outcome.seconds:.0f} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
