"""What the commands print with."""
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from dpmi.study import Failure

# Wide enough for any line of ours: what is no terminal is a file or a pipe, where wrapped lines only hurt.
_FILE_WIDTH = 250


def console() -> Console:
    """Of stdout; nothing in it is taken for markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return Console(width=width, markup=False, highlight=False)


def tell(failures: Iterable[Failure]) -> None:
    """One line on stderr for each job that failed."""
    for failure in failures:
        print(f"dpmi: {failure.label}: {' '.join(failure.message.split())}", file=sys.stderr)
