"""Output of the commands."""
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from dpmi.study import Failure

# Wide enough for every line: lines in a file or a pipe must not wrap.
_FILE_WIDTH = 250


def console() -> Console:
    """Console for stdout, without markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return Console(width=width, markup=False, highlight=False)


def tell(failures: Iterable[Failure]) -> None:
    """Print one line on stderr per failed job."""
    for failure in failures:
        print(f"dpmi: {failure.label}: {' '.join(failure.message.split())}", file=sys.stderr)
