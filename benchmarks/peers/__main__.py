"""The table against peers: ``python -m benchmarks.peers [FILE.json] [--only ROW] [--seconds 10]``.

``--install`` makes the environments of jax_privacy and pfl-research first. The table is printed, and written beside the
file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..steps import machine
from .compare import Comparison, comparisons
from .environments import install
from .rows import ORDINARY, PEERS, ROWS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a comparison was refused or an installation failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE.json")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of rounds, per comparison")
    parser.add_argument("--install", action="store_true", help="make the environments, and nothing else")
    chosen = parser.parse_args(arguments)
    if chosen.install:
        return 0 if install() else 1
    return run(chosen.only or list(ROWS), chosen.seconds, chosen.file)


def run(rows: Sequence[str], seconds: float, file: Path | None = None) -> int:
    """Compare the rows of these names, print every comparison, and write both files after each row."""
    found: list[Comparison] = []
    for name in rows:
        for comparison in comparisons(ROWS[name], seconds):
            found.append(comparison)
            print(_line(comparison), flush=True)
        if file is not None:
            written = {"machine": machine(), "comparisons": [_figures(one) for one in found]}
            file.write_text(json.dumps(written, indent=2) + "\n")
            file.with_suffix(".md").write_text(table(found))
    print("\n" + machine() + "\n\n" + table(found), end="")
    return int(any(one.refused for one in found))


def table(found: Sequence[Comparison]) -> str:
    """Return the comparisons as a Markdown table, one row each."""
    cells: dict[str, dict[str, str]] = {}
    for one in found:
        cells.setdefault(one.row, {})[one.peer] = _cell(one)
    lines = [
        f"| model, users | time / {ORDINARY} at its best | {' | '.join(f'{p} / dpmi' for p in PEERS[1:])} |",
        "| --- " * (1 + len(PEERS)) + "|",
        *(f"| {row} | {' | '.join(by.get(peer, '') for peer in PEERS)} |" for row, by in cells.items()),
    ]
    return "\n".join(lines) + "\n"


def _cell(one: Comparison) -> str:
    if one.refused:
        return "refused"
    limit = "" if one.limit is None else f" ({one.limit:g}{'' if one.met else ': missed'})"
    some = "" if one.users == one.all_users else f", {one.users} users"
    count = len(one.rounds)
    return f"{one.ratio:.3g}{limit} ± {one.noise:.0%}, {count} round{'s' if count > 1 else ''}{some}"


def _line(one: Comparison) -> str:
    if one.refused:
        return f"{one.row}, {one.peer}: refused: {one.refused}"
    before, theirs, _ = one.rounds[0]
    batch = "" if one.batch_size is None else f"; best at batch {one.batch_size}"
    gap = "" if one.difference is None else f"; weights differ by {one.difference:.1g}"
    return f"{one.row}, {one.peer}: {_cell(one)}; dpmi {before:.3f} s, peer {theirs:.3f} s{batch}{gap}"


def _figures(one: Comparison) -> dict[str, object]:
    return asdict(one) if one.refused else {**asdict(one), "ratio": one.ratio, "noise": one.noise}


if __name__ == "__main__":
    sys.exit(main())
