"""The table of the benchmark.

``python -m benchmarks.gpu.table gpu.json docs/performance.md`` writes it into the page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- table of make bench-gpu -->", "<!-- end of the table -->"
_HEAD = (
    "model, users x records",
    "`grad_sample_mode`",
    "passes x records",
    "time / non-private (limit)",
    "non-private / itself",
    "peak / non-private (limit)",
    "peak",
    "waits per pass",
    "a step; non-private (batch)",
)


def markdown(found: Mapping[str, Any]) -> str:
    """Return the machine and the table, from the content of the JSON file."""
    machine = found["machine"]
    lines = [
        f"Measured on {machine['date']} on {machine['device']}, driver {machine['driver']}, CUDA {machine['cuda']}, "
        f"torch {machine['torch']}, Python {machine['python']}.",
        "",
        _line(_HEAD),
        _line(["---"] * len(_HEAD)),
        *(_line(_cells(row)) for row in found["rows"]),
    ]
    return "\n".join(lines) + "\n"


def into_page(page: str, table: str) -> str:
    """Return the page with the table between its two marks.

    Raises:
        ValueError: the page does not have each mark once, in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page must hold {BEGIN!r} and then {END!r}, each once")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    of = [row["problem"], f"`{row['mode']}`"]
    if row["failed"] is not None:
        return [*of, row["failed"], *["-"] * (len(_HEAD) - 3)]
    return [
        *of,
        f"{row['passes']} x {row['physical']}",
        f"{row['time']:.2f}{_range(row['time_range'])} ({row['most_time']:.2f})",
        f"{row['noise']:.2f}{_range(row['noise_range'])}",
        "-" if row["memory"] is None else f"{row['memory']:.2f} ({row['most_memory']:.1f})",
        "-" if row["peak"] is None else f"{row['peak'] / 2**20:,.0f} MiB",
        "-" if row["waits"] is None else f"{row['waits']:.1f}",
        f"{row['seconds']:.3f} s; {row['ordinary_seconds']:.3f} s ({row['batch_size']})",
    ]


def _range(ends: Sequence[float]) -> str:
    return f" [{ends[0]:.2f}, {ends[1]:.2f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    content, target = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    target.write_text(into_page(target.read_text(encoding="utf-8"), markdown(content)), encoding="utf-8")
