"""The file of ``--plot``: checked before any computation, written atomically."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dpmi.whole_files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Check that the file can be written.

    Raises:
        ValueError: the suffix is unknown, the path is a folder, or its folder is not writable.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--plot is {path}; it must end in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise ValueError(f"--plot is {path}, which is a folder; give a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--plot is {path}; no file can be written there: {error.strerror}") from error


def save(figure: Figure, path: Path) -> None:
    """Write the figure; an existing file is replaced atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))
